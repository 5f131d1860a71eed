"""A trained network in other formats: ONNX, from uint8 pixels to bottleneck features, and
safetensors."""

import importlib.util
import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from catalog.errors import ConfigError, ShelfsortError
from stage1_cnn.device import Compute
from stage1_cnn.networks.backbones import Network
from stage1_cnn.predict import Predictor

NEEDS = ("onnx", "onnxscript", "onnxruntime")


def require_packages(what: str) -> None:
    """Raises ShelfsortError if a package of the extra `export` is not installed."""
    if missing := [name for name in NEEDS if importlib.util.find_spec(name) is None]:
        raise ShelfsortError(
            f"{what} needs the package {missing[0]}; "
            "install it with: pip install 'shelfsort[export]'"
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


def save_safetensors(predictor: Predictor, path: Path) -> None:
    """Writes the weights of backbone and head, by their names in PyTorch."""
    state = {name: value.contiguous() for name, value in predictor.network.state_dict().items()}
    save_file(state, path, metadata={"checkpoint": predictor.fingerprint})


def head_arrays(predictor: Predictor, view: int) -> dict[str, np.ndarray]:
    """The head of a view, as heads.npz names it."""
    return {f"weight_{view}": predictor.head.weight, f"bias_{view}": predictor.head.bias}


class OnnxPredictor(Predictor):
    """The same network run by ONNX Runtime: faster than PyTorch in fp32 on a processor. One thread
    per call, for lanes.

    Features may differ from PyTorch's in the last bit. Raises ConfigError on a GPU and in another
    precision, ShelfsortError if a package is missing.
    """

    runtime = "onnx"

    def __init__(
        self, network: Network, content: dict[str, Any], compute: Compute, fingerprint: str
    ) -> None:
        super().__init__(network, content, compute, fingerprint)
        if self.compute.device.type != "cpu":
            raise ConfigError(
                f"score.runtime: onnx runs on a processor, found {self.compute.device}; "
                "set stage1.device to cpu"
            )
        if self.compute.precision != "fp32":
            raise ConfigError(
                "score.runtime: onnx computes in fp32, features.precision is "
                f"{self.compute.precision}; set it to fp32, or score.runtime to torch"
            )
        require_packages("score.runtime: onnx")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        with tempfile.TemporaryDirectory() as folder:
            save_onnx(self, Path(folder) / "network.onnx")
            serialised = (Path(folder) / "network.onnx").read_bytes()
        self._session = onnxruntime.InferenceSession(
            serialised, options, providers=["CPUExecutionProvider"]
        )

    def features(self, pixels: torch.Tensor) -> np.ndarray:
        """As Predictor.features."""
        (features,) = self._session.run(
            ["features"], {"pixels": pixels.permute(0, 2, 3, 1).numpy()}
        )
        return features.astype(np.float16)
