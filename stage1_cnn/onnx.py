"""A trained network in other formats: ONNX, from uint8 pixels to bottleneck features, and
safetensors.

On disk, beside a checkpoint that a runtime other than PyTorch answers from: network.onnx, so that
it is exported once, and network.json, which names its checkpoint."""

import importlib.util
import tempfile
from pathlib import Path
from typing import cast

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
_KEPT, _MANIFEST = "network.onnx", "network.json"


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
    if _is_kept(predictor, checkpoint):
        return
    with atomic_path(checkpoint.with_name(_KEPT)) as temporary:
        save_onnx(predictor, temporary)
    digest = sha256_file(checkpoint.with_name(_KEPT))
    made = {"checkpoint": predictor.fingerprint, "sha256": digest}
    write_sealed(checkpoint.with_name(_MANIFEST), made)


def read_onnx(predictor: Predictor, checkpoint: Path) -> bytes:
    """The network as `save_onnx` writes it: from beside its checkpoint, or, if there is none of
    this very checkpoint, exported now, which takes seconds."""
    if _is_kept(predictor, checkpoint):
        return checkpoint.with_name(_KEPT).read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        save_onnx(predictor, Path(folder) / _KEPT)
        return (Path(folder) / _KEPT).read_bytes()


def _is_kept(predictor: Predictor, checkpoint: Path) -> bool:
    try:
        made = read_sealed(checkpoint.with_name(_MANIFEST), "features")
    except ArtifactError:
        return False  # none, or a damaged one
    kept = checkpoint.with_name(_KEPT)
    whole = kept.exists() and sha256_file(kept) == made["sha256"]
    return whole and made["checkpoint"] == predictor.fingerprint


def save_safetensors(predictor: Predictor, path: Path) -> None:
    """Writes the weights of backbone and head, by their names in PyTorch."""
    state = {name: value.contiguous() for name, value in predictor.network.state_dict().items()}
    save_file(state, path, metadata={"checkpoint": predictor.fingerprint})


def head_arrays(predictor: Predictor, view: int) -> dict[str, np.ndarray]:
    """The head of a view, as heads.npz names it."""
    return {f"weight_{view}": predictor.head.weight, f"bias_{view}": predictor.head.bias}
