"""A trained network as a function from pixels to bottleneck features: all that scoring needs of
stage 1, from one checkpoint."""

import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from catalog.artifacts import sha256_file
from catalog.config import MAX_PIXELS
from catalog.errors import ArtifactError, ConfigError, ImageError
from catalog.taxonomy import Taxonomy
from stage1_cnn import checkpoint
from stage1_cnn.dataset import decode_all
from stage1_cnn.device import Compute, inference_compute
from stage1_cnn.head import Head
from stage1_cnn.networks.backbones import Network, build
from stage1_cnn.networks.landmarks import LandmarkVgg16
from stage1_cnn.transforms import EvalTransform, Normaliser

PROCESSOR_BATCH = 32
"""Images per batch on a processor; more don't make it faster."""
_BATCH = 64


class Predictor:
    """Computes features of photos. `taxonomy`, `transform`, `head`, `train_images` (int64 [K]) and
    `fingerprint` (sha256 of the file) are the checkpoint's.

        predictor = Predictor.open(run / "stage1" / "best.pt")
        features = predictor.features(predictor.transform([photo]))
        log_probs = predictor.head.log_probs(features)
    """

    runtime = "torch"

    def __init__(self, network: Network, content: dict, compute: Compute, path: Path) -> None:
        self.compute, self.fingerprint = compute, sha256_file(path)
        self.made_from: dict = content["made_from"]
        self.taxonomy = Taxonomy.from_json(content["taxonomy"])
        self.transform = EvalTransform.from_json(content["transform"])
        self.train_images: np.ndarray = content["train_images"].numpy()
        weight, bias = network.head.weight.detach(), network.head.bias.detach()
        self.head = Head(weight.float().numpy().copy(), bias.float().numpy().copy())
        frozen = network.eval().requires_grad_(False)
        self.network = frozen.to(compute.device).to(memory_format=torch.channels_last)
        self._normaliser = Normaliser(self.transform, compute.device)
        # Threads take turns on a GPU, so that one batch at a time has its activations there; on the
        # processor each has a core.
        self._turn = threading.Lock() if compute.device.type == "cuda" else contextlib.nullcontext()

    @classmethod
    def open(cls, path: Path, *, device: str = "auto", precision: str = "auto") -> "Predictor":
        """Reads best.pt, head.pt or last.pt; `precision` is `features.precision`, independent of
        the training's.

        Raises ArtifactError if the file is missing, damaged or does not fit its own network,
        ConfigError if the machine lacks the device or precision asked for.
        """
        compute = inference_compute(device, precision)
        content = checkpoint.load(path)
        config = content["config"]
        network = build(
            config["backbone"],
            len(content["taxonomy"]["categories"]),
            width=config.get("width", 1.0),
        )
        try:
            network.load_state_dict(content["network"])
        except RuntimeError as error:
            reason = str(error).splitlines()[1].strip()
            problem = f"its weights do not fit its network ({reason})"
            raise ArtifactError(path, problem, "stage1") from error
        return cls(network, content, compute, path)

    @property
    def computed_with(self) -> dict[str, str]:
        """Device, precision and runtime of the arithmetic, as features.h5 and the second stage
        record them."""
        return self.compute.to_json() | {"runtime": self.runtime}

    @property
    def width(self) -> int:
        """D, the number of features."""
        return self.network.head.in_features

    def features(self, pixels: torch.Tensor) -> np.ndarray:
        """uint8 [B, 3, H, W] from `transform` -> bottleneck features float16 [B, D]."""
        with self._turn, torch.inference_mode(), self.compute.autocast():
            features = self.network.features(self._normaliser(pixels)).half()
        return features.cpu().numpy()

    def attention_maps(self, pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [B, 3, H, W] from `transform` -> heat maps of the landmarks, and attention maps, as
        LandmarkVgg16.attention_maps.

        Raises ConfigError if the network has none.
        """
        if not isinstance(self.network.backbone, LandmarkVgg16):
            raise ConfigError(
                "attention: this network has no attention map; "
                "expected one of stage1.backbone vgg16_landmarks"
            )
        with self._turn, torch.inference_mode(), self.compute.autocast():
            maps, attention = self.network.backbone.attention_maps(self._normaliser(pixels))
        return maps.float().cpu().numpy(), attention.float().cpu().numpy()


def photo_features(
    predictor: Predictor,
    photos: Sequence[bytes | ImageError],
    batch_size: int = _BATCH,
    max_pixels: int = MAX_PIXELS,
) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Features of B photos, encoded or given as the error of reading them.

    Returns features float16 [R, D] of the R readable ones, whether each is readable, bool [B], and
    the reasons of the others, by index.
    """
    features = [np.zeros((0, predictor.width), dtype=np.float16)]
    readable = np.ones(len(photos), dtype=bool)
    reasons: dict[int, str] = {}
    for start in range(0, len(photos), batch_size):
        batch = slice(start, start + batch_size)
        decoded, readable[batch], errors = decode_all(photos[batch], max_pixels=max_pixels)
        reasons |= {start + index: str(error) for index, error in errors.items()}
        if decoded:
            features.append(predictor.features(predictor.transform(decoded)))
    return np.concatenate(features), readable, reasons
