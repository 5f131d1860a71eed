"""A trained network as files that others read: ONNX from uint8 pixels to bottleneck features, and safetensors."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from stage1_cnn.predict import Predictor


class FromPixels(nn.Module):
    """uint8 [B, H, W, 3] photos of the network's own size -> features float32 [B, D]: what Normaliser and backbone do."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.backbone = predictor.network.backbone
        self.register_buffer("mean", torch.tensor(predictor.transform.mean).view(1, 3, 1, 1))
        self.register_buffer("scale", 1 / torch.tensor(predictor.transform.std).view(1, 3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.backbone((pixels.permute(0, 3, 1, 2).float() * (1 / 255) - self.mean) * self.scale)


def save_onnx(predictor: Predictor, path: Path) -> None:
    """Writes ONNX with input `pixels` uint8 [B, H, W, 3] and output `features` float32 [B, D], in float32, of any B.

    `predictor` must be on the processor.
    """
    pixels = torch.zeros((2, predictor.transform.height, predictor.transform.width, 3), dtype=torch.uint8)
    program = torch.onnx.export(
        FromPixels(predictor).eval(), (pixels,), dynamo=True, verbose=False, input_names=["pixels"], output_names=["features"],
        dynamic_shapes={"pixels": {0: torch.export.Dim("images")}},
    )  # fmt: skip
    program.save(path, external_data=False)


def save_safetensors(predictor: Predictor, path: Path) -> None:
    """Writes the weights of backbone and head, by their names in PyTorch."""
    state = {name: value.contiguous() for name, value in predictor.network.state_dict().items()}
    save_file(state, path, metadata={"checkpoint": predictor.fingerprint})


def head_arrays(predictor: Predictor, view: int) -> dict[str, np.ndarray]:
    """The head of a view, as heads.npz names it."""
    return {f"weight_{view}": predictor.head.weight, f"bias_{view}": predictor.head.bias}
