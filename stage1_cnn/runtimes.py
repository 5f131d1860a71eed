"""Stage 1's network by other runtimes than PyTorch, and which of them is the fastest here.

All compute the same function of the same pixels; features may differ in the last bits. On a GPU
there is PyTorch alone, in int8 ONNX Runtime alone.
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
from stage1_cnn.onnx import (
    Inference,
    by_onnxruntime,
    keep_onnx,
    missing_package,
    read_onnx,
    require_packages,
)
from stage1_cnn.predict import PROCESSOR_BATCH, Predictor
from stage1_cnn.quantise import read_quantised

BATCH = 8
"""Images that a runtime other than PyTorch computes at once, so that their activations stay in a
core's cache (`benchmarks.runtimes` compares other numbers)."""
_ROUNDS, _SECONDS = 5, 3.0
"""Rounds in which the runtimes are measured in turns: so many, or as fit into so many seconds for
each; at least one."""


class ExportedPredictor(Predictor):
    """The same network by another runtime, from its ONNX; one thread per call, for lanes. Opened by
    `open_predictor`, which checks that the runtime can compute so.

    Raises ArtifactError if the network is to be in int8 and was not quantised.
    """

    at_once = BATCH

    def __init__(
        self, network: Network, content: dict[str, Any], compute: Compute, path: Path
    ) -> None:
        super().__init__(network, content, compute, path)
        in_int8 = compute.precision == "int8"
        self._run = self._compiled(read_quantised(self, path) if in_int8 else read_onnx(self, path))

    def _compiled(self, network: bytes) -> Inference:
        """The network as a function."""
        raise NotImplementedError

    def features(self, pixels: torch.Tensor) -> np.ndarray:
        """As Predictor.features."""
        return features_of_parts(self._run, pixels.permute(0, 2, 3, 1).numpy(), self.at_once)


def features_of_parts(run: Inference, photos: np.ndarray, size: int) -> np.ndarray:
    """Features float16 [N, D] of photos [N, H, W, 3], computed so many at once."""
    parts = range(0, len(photos) or 1, size)
    return np.concatenate([run(photos[i : i + size]).astype(np.float16) for i in parts])


class OnnxPredictor(ExportedPredictor):
    """By ONNX Runtime, in fp32 or int8."""

    runtime = "onnx"

    def _compiled(self, network: bytes) -> Inference:
        return by_onnxruntime(network)


class OpenVinoPredictor(ExportedPredictor):
    """By OpenVINO, in fp32 or bf16."""

    runtime = "openvino"

    def _compiled(self, network: bytes) -> Inference:
        import openvino

        core = openvino.Core()
        compiled = core.compile_model(
            core.read_model(network),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "f32" if self.compute.precision == "fp32" else "bf16",
                # A call waits while one of so many streams, a thread each, computes for it.
                "NUM_STREAMS": cores(),
                "INFERENCE_NUM_THREADS": cores(),
                "ENABLE_HYPER_THREADING": True,
                "ENABLE_CPU_PINNING": False,  # other processes may share the cores
            },
        )
        requests = threading.local()

        def run(pixels: np.ndarray) -> np.ndarray:
            if not hasattr(requests, "own"):
                requests.own = compiled.create_infer_request()
            return requests.own.infer({"pixels": pixels}, share_inputs=True, share_outputs=True)[
                "features"
            ]

        return run


RUNTIMES: Mapping[str, type[Predictor]] = {
    runtime.runtime: runtime for runtime in (Predictor, OnnxPredictor, OpenVinoPredictor)
}
"""The runtimes by name."""
_EXTRAS = {"onnx": "export", "openvino": "openvino"}
_PRECISIONS = {
    "torch": ("fp32", "bf16", "fp16"),
    "onnx": ("fp32", "int8"),
    "openvino": ("fp32", "bf16"),
}


def require_usable(runtime: str, compute: Compute) -> None:
    """Raises ConfigError if a runtime can't compute so, ShelfsortError if a package is missing."""
    if problem := _unfit(runtime, compute):
        others = [name for name in RUNTIMES if not _unfit(name, compute)]
        raise ConfigError(f"runtime {runtime}: {problem}, or the runtime to {' or '.join(others)}")
    if runtime != "torch":
        require_packages(f"runtime {runtime}", _EXTRAS[runtime])


def usable(runtime: str, compute: Compute) -> bool:
    """Whether a runtime can compute so on this machine."""
    installed = runtime == "torch" or missing_package(_EXTRAS[runtime]) is None
    return installed and not _unfit(runtime, compute)


def _unfit(runtime: str, compute: Compute) -> str | None:
    """Why a runtime does not compute so, and what to set instead."""
    if runtime != "torch" and compute.device.type != "cpu":
        return f"runs on a processor, found {compute.device}; set stage1.device to cpu"
    if compute.precision not in _PRECISIONS[runtime]:
        expected = " or ".join(_PRECISIONS[runtime])
        return (
            f"computes in {expected}, the precision asked for is {compute.precision}; set it to "
            f"{expected}"
        )
    if (
        runtime != "torch"
        and compute.precision == "bf16"
        and not torch.cpu._is_avx512_bf16_supported()
    ):
        return "computes in bf16 where the processor does; set features.precision to fp32"
    return None


def answering(asked: str, evaluated: str | None, device: str, precision: str) -> str:
    """The runtime that `asked` means for answers: `auto` is the one that computed what was
    evaluated, or, if that can't compute so here, PyTorch, or ONNX Runtime for int8."""
    if asked != "auto":
        return asked
    compute = inference_compute(device, precision)
    if evaluated is not None and evaluated in RUNTIMES and usable(evaluated, compute):
        return evaluated
    return "onnx" if compute.precision == "int8" else "torch"


def candidates(compute: Compute) -> list[str]:
    """The runtimes that can compute so on this machine, PyTorch among them."""
    return [runtime for runtime in RUNTIMES if usable(runtime, compute)]


def open_predictor(
    runtime: str, checkpoint: Path, *, device: str = "auto", precision: str = "auto"
) -> Predictor:
    """As `Predictor.open`, by one of `RUNTIMES`. Raises as `require_usable` too."""
    require_usable(runtime, inference_compute(device, precision))
    return RUNTIMES[runtime].open(checkpoint, device=device, precision=precision)


def keep_network(runtime: str, checkpoint: Path, compute: Compute) -> None:
    """Exports the network beside its checkpoint, where a runtime other than PyTorch reads it each
    time that it is opened. Raises as `require_usable`."""
    require_usable(runtime, compute)
    if runtime != "torch" and compute.precision != "int8":
        keep_onnx(Predictor.open(checkpoint, device="cpu", precision="fp32"), checkpoint)


def measure(checkpoint: Path, compute: Compute) -> dict[str, float]:
    """Images a second of each usable runtime with a lane per core, best of a few rounds in turns;
    keeps the network beside the checkpoint, for what reads it there. For a processor; takes
    seconds, a minute with a large network on few cores."""
    names, precision = candidates(compute), compute.precision
    for name in names:
        keep_network(name, checkpoint, compute)
    predictors = [
        open_predictor(name, checkpoint, device="cpu", precision=precision) for name in names
    ]
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
