"""A trained network in other formats: ONNX, from uint8 pixels to bottleneck features, and
safetensors.

On disk, beside a checkpoint that a runtime other than PyTorch answers from: network.onnx, so that
it is exported once, and network.json, which names its checkpoint."""

import importlib.util
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from catalog.artifacts import atomic_path, read_sealed, sha256_file, write_sealed
from catalog.errors import ArtifactError, ShelfsortError
from stage1_cnn.predict import Predictor

EXTRAS = {
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
}
"""The packages of an extra."""
Inference = Callable[[np.ndarray], np.ndarray]
"""uint8 [B, H, W, 3] photos of the network's own size -> features float32 [B, D]."""
_KEPT = "network"


def missing_package(extra: str) -> str | None:
    """A package of an extra that is not installed."""
    missing = (name for name in EXTRAS[extra] if importlib.util.find_spec(name) is None)
    return next(missing, None)


def require_packages(user: str, extra: str = "export") -> None:
    """Raises ShelfsortError if a package of the extra is not installed."""
    if missing := missing_package(extra):
        raise ShelfsortError(
            f"{user} needs the package {missing}; install it with: pip install 'shelfsort[{extra}]'"
        )


class FromPixels(nn.Module):
    """uint8 [B, H, W, 3] photos of the network's own size -> features float32 [B, D]: Normaliser
    and backbone in one."""

    centre: torch.Tensor
    scale: torch.Tensor

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.backbone = predictor.network.backbone
        transform = predictor.transform
        self.register_buffer("centre", transform.centre(transform.height, transform.width)[None])
        self.register_buffer("scale", 1 / torch.tensor(transform.std).view(1, 3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """As the class says."""
        return self.backbone(
            (pixels.permute(0, 3, 1, 2).float() * (1 / 255) - self.centre) * self.scale
        )


def save_onnx(predictor: Predictor, path: Path) -> None:
    """Writes ONNX with input `pixels` uint8 [B, H, W, 3] and output `features` float32 [B, D], in
    float32, of any B.

    `predictor` must be on the processor.
    """
    pixels = torch.zeros(
        (2, predictor.transform.height, predictor.transform.width, 3), dtype=torch.uint8
    )
    program = cast(  # None only without dynamo
        "torch.onnx.ONNXProgram",
        torch.onnx.export(
            FromPixels(predictor).eval(),
            (pixels,),
            dynamo=True,
            verbose=False,
            input_names=["pixels"],
            output_names=["features"],
            dynamic_shapes={"pixels": {0: torch.export.Dim("images")}},
        ),
    )
    program.save(path, external_data=False)


def keep_onnx(predictor: Predictor, checkpoint: Path) -> None:
    """Writes the network beside its checkpoint, for `read_onnx`; does nothing if it is there."""
    if read_beside(checkpoint, _KEPT, predictor.fingerprint) is None:
        keep_beside(checkpoint, _KEPT, predictor.fingerprint, export_onnx(predictor), {})


def read_onnx(predictor: Predictor, checkpoint: Path) -> bytes:
    """The network as `save_onnx` writes it: from beside its checkpoint, or, if there is none of
    this very checkpoint, exported now, which takes seconds."""
    return read_beside(checkpoint, _KEPT, predictor.fingerprint) or export_onnx(predictor)


def export_onnx(predictor: Predictor) -> bytes:
    """What `save_onnx` writes."""
    with tempfile.TemporaryDirectory() as folder:
        save_onnx(predictor, Path(folder) / "network.onnx")
        return (Path(folder) / "network.onnx").read_bytes()


def keep_beside(
    checkpoint: Path, name: str, fingerprint: str, network: bytes, figures: Mapping[str, Any]
) -> None:
    """Writes a network made from the checkpoint of this sha256 beside it, NAME.onnx, and NAME.json,
    with what was measured of it."""
    path = checkpoint.with_name(f"{name}.onnx")
    with atomic_path(path) as temporary:
        temporary.write_bytes(network)
    made = {"checkpoint": fingerprint, "sha256": sha256_file(path), **figures}
    write_sealed(checkpoint.with_name(f"{name}.json"), made)


def read_beside(checkpoint: Path, name: str, fingerprint: str) -> bytes | None:
    """What `keep_beside` wrote; None if there is none, a damaged one, or one of another
    checkpoint."""
    path = checkpoint.with_name(f"{name}.onnx")
    try:
        made = read_sealed(checkpoint.with_name(f"{name}.json"), "features")
    except ArtifactError:
        return None
    whole = path.exists() and sha256_file(path) == made["sha256"]
    return path.read_bytes() if whole and made["checkpoint"] == fingerprint else None


def by_onnxruntime(network: bytes) -> Inference:
    """A network that `save_onnx` wrote, as a function; one thread per call."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(["features"], {"pixels": pixels})[0]


def save_safetensors(predictor: Predictor, path: Path) -> None:
    """Writes the weights of backbone and head, by their names in PyTorch."""
    state = {name: value.contiguous() for name, value in predictor.network.state_dict().items()}
    save_file(state, path, metadata={"checkpoint": predictor.fingerprint})


def head_arrays(predictor: Predictor, view: int) -> dict[str, np.ndarray]:
    """The head of a view, as heads.npz names it."""
    return {f"weight_{view}": predictor.head.weight, f"bias_{view}": predictor.head.bias}
