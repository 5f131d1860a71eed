"""Stage 1's network as commands and workers use it: on a processor, the memory that a batch frees
stays with the process (`keep_memory`), a choice for the whole process that no library makes."""

from pathlib import Path

from stage1_cnn.config import Stage1Config
from stage1_cnn.device import choose_compute, keep_memory
from stage1_cnn.predict import Predictor
from stage1_cnn.processes import SINGLE_PROCESS, Processes
from stage1_cnn.runtimes import open_predictor


def open_network(
    checkpoint: Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    runtime: str = "torch",
) -> Predictor:
    """As `open_predictor`."""
    predictor = open_predictor(runtime, checkpoint, device=device, precision=precision)
    if predictor.compute.device.type == "cpu":
        keep_memory()
    return predictor


def keep_training_memory(config: Stage1Config, processes: Processes = SINGLE_PROCESS) -> None:
    """Keeps freed memory if a training is to run on a processor. Raises ConfigError if the machine
    lacks device or precision."""
    if choose_compute(config.device, config.precision, processes).device.type == "cpu":
        keep_memory()
