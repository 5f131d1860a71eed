"""Stage 1's network by other runtimes than PyTorch, and which of them is the fastest here.

All compute the same function of the same pixels; features may differ in the last bits. On a GPU
there is PyTorch alone.
"""

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from catalog.errors import ConfigError
from catalog.parallel import cores
from stage1_cnn.device import Compute, inference_compute, ordered
from stage1_cnn.networks.backbones import Network
from stage1_cnn.onnx import keep_onnx, missing_package, read_onnx, require_packages
from stage1_cnn.predict import PROCESSOR_BATCH, Predictor

_ROUNDS, _SECONDS = 5, 3.0
"""Rounds in which the runtimes are measured in turns: so many, or as fit into so many seconds for
each; at least one."""


class OnnxPredictor(Predictor):
    """The same network run by ONNX Runtime. One thread per call, for lanes.

    Raises ConfigError on a GPU and in another precision than fp32, ShelfsortError if a package is
    missing.
    """

    runtime = "onnx"

    def __init__(
        self, network: Network, content: dict[str, Any], compute: Compute, path: Path
    ) -> None:
        require_usable(self.runtime, compute)
        super().__init__(network, content, compute, path)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            read_onnx(self, path), options, providers=["CPUExecutionProvider"]
        )

    def features(self, pixels: torch.Tensor) -> np.ndarray:
        """As Predictor.features."""
        (features,) = self._session.run(
            ["features"], {"pixels": pixels.permute(0, 2, 3, 1).numpy()}
        )
        return features.astype(np.float16)


class OpenVinoPredictor(Predictor):
    """The same network run by OpenVINO, in fp32 or bf16. One thread per call, for lanes.

    Raises ConfigError on a GPU and if the processor lacks the precision, ShelfsortError if a
    package is missing.
    """

    runtime = "openvino"

    def __init__(
        self, network: Network, content: dict[str, Any], compute: Compute, path: Path
    ) -> None:
        require_usable(self.runtime, compute)
        super().__init__(network, content, compute, path)
        import openvino

        core = openvino.Core()
        self._network = core.compile_model(
            core.read_model(read_onnx(self, path)),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "f32" if compute.precision == "fp32" else "bf16",
                # A call waits while one of so many streams, a thread each, computes for it.
                "NUM_STREAMS": cores(),
                "INFERENCE_NUM_THREADS": cores(),
                "ENABLE_HYPER_THREADING": True,
                "ENABLE_CPU_PINNING": False,  # other processes may share the cores
            },
        )
        self._requests = threading.local()

    def features(self, pixels: torch.Tensor) -> np.ndarray:
        """As Predictor.features."""
        if not hasattr(self._requests, "own"):
            self._requests.own = self._network.create_infer_request()
        result = self._requests.own.infer(
            {"pixels": pixels.permute(0, 2, 3, 1).numpy()}, share_inputs=True, share_outputs=True
        )
        return result["features"].astype(np.float16)


RUNTIMES: Mapping[str, type[Predictor]] = {
    runtime.runtime: runtime for runtime in (Predictor, OnnxPredictor, OpenVinoPredictor)
}
"""The runtimes by name."""
_EXTRAS = {"onnx": "export", "openvino": "openvino"}
_PRECISIONS = {"onnx": ("fp32",), "openvino": ("fp32", "bf16")}


def require_usable(runtime: str, compute: Compute) -> None:
    """Raises ConfigError if a runtime can't compute so, ShelfsortError if a package is missing."""
    if problem := _unfit(runtime, compute):
        raise ConfigError(f"runtime {runtime}: {problem}, or the runtime to torch")
    if runtime != "torch":
        require_packages(f"runtime {runtime}", _EXTRAS[runtime])


def usable(runtime: str, compute: Compute) -> bool:
    """Whether a runtime can compute so on this machine."""
    if runtime == "torch":
        return True
    return not _unfit(runtime, compute) and missing_package(_EXTRAS[runtime]) is None


def _unfit(runtime: str, compute: Compute) -> str | None:
    """Why a runtime does not compute so, and what to set instead."""
    if runtime == "torch":
        return None
    if compute.device.type != "cpu":
        return f"runs on a processor, found {compute.device}; set stage1.device to cpu"
    if compute.precision not in _PRECISIONS[runtime]:
        expected = " or ".join(_PRECISIONS[runtime])
        return (
            f"computes in {expected}, features.precision is {compute.precision}; set it to "
            f"{expected}"
        )
    if compute.precision == "bf16" and not torch.cpu._is_avx512_bf16_supported():
        return "computes in bf16 where the processor does; set features.precision to fp32"
    return None


def answering(asked: str, evaluated: str | None, device: str, precision: str) -> str:
    """The runtime that `asked` means for answers: `auto` is the one that computed what was
    evaluated, or PyTorch if that can't compute so here."""
    if asked != "auto":
        return asked
    compute = inference_compute(device, precision)
    if evaluated is not None and evaluated in RUNTIMES and usable(evaluated, compute):
        return evaluated
    return "torch"


def candidates(compute: Compute) -> list[str]:
    """The runtimes that can compute so on this machine, PyTorch among them."""
    return [runtime for runtime in RUNTIMES if usable(runtime, compute)]


def keep_network(runtime: str, checkpoint: Path, compute: Compute) -> None:
    """Exports the network beside its checkpoint, where a runtime other than PyTorch reads it each
    time that it is opened. Raises as `require_usable`."""
    require_usable(runtime, compute)
    if runtime != "torch":
        keep_onnx(Predictor.open(checkpoint, device="cpu", precision="fp32"), checkpoint)


def measure(checkpoint: Path, compute: Compute) -> dict[str, float]:
    """Images a second of each usable runtime with a lane per core, best of a few rounds in turns;
    keeps the network beside the checkpoint, for what reads it there. For a processor; takes
    seconds, a minute with a large network on few cores."""
    opening = {"device": "cpu", "precision": compute.precision}
    predictors = [Predictor.open(checkpoint, **opening)]
    if others := candidates(compute)[1:]:
        keep_onnx(predictors[0], checkpoint)
    predictors += [RUNTIMES[name].open(checkpoint, **opening) for name in others]
    lanes, transform = cores(), predictors[0].transform
    shape = (PROCESSOR_BATCH, 3, transform.height, transform.width)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator())
    batch = pixels.contiguous(memory_format=torch.channels_last)
    best = dict.fromkeys((predictor.runtime for predictor in predictors), float("inf"))
    for predictor in predictors:
        predictor.features(batch[:1])  # what is allocated and compiled on first use
    started = time.perf_counter()
    for _ in range(_ROUNDS):
        for predictor in predictors:
            begun = time.perf_counter()
            for _ in ordered(predictor.features, [batch] * lanes, lanes):
                pass
            seconds = time.perf_counter() - begun
            best[predictor.runtime] = min(best[predictor.runtime], seconds)
        if time.perf_counter() - started > _SECONDS * len(predictors):
            break
    return {name: round(lanes * len(batch) / seconds, 1) for name, seconds in best.items()}
