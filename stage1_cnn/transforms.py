"""The one definition of how pixels reach the network: evaluation, training, and normalisation on
the device.

Transforms run on the processor and give uint8; the device gets uint8 and makes normalised floats of
it, and what changes a whole batch alike is done there (`Changes`). The evaluation transform is
saved in the checkpoint as a plain dictionary and rebuilt from it.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import affine_grid, grid_sample, interpolate

from catalog.arrays import GOLDEN, splitmix64
from catalog.errors import ConfigError
from stage1_cnn import policies
from stage1_cnn.config import Augment, Stage1Config
from stage1_cnn.networks.architectures import IMAGENET, pretraining

_GEOMETRY, _COLOUR, _AFFINE, _POLICY, _ERASE, _REPEAT = range(6)
_LUMA = (0.299, 0.587, 0.114)
_MIRRORED, _LEFT, _RIGHT, _GRAINED = range(1, 5)
_TURN, _GRAIN = 20.0, 12.0
"""Repeats of a photo: most degrees of their turn, and deviation of their grain in levels of 256."""


class Moments(NamedTuple):
    """Mean and standard deviation of each channel, on the scale where a pixel is 0 to 1; and the
    mean of each pixel less that of its channel, float32 [3, H, W], if it is to be subtracted
    too."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image: torch.Tensor | None = None


class Changes(NamedTuple):
    """What the device does to a batch: `colours` float32 [B, 3] (factors of brightness, contrast,
    saturation), `affine` float32 [B, 2, 3] (from places of the new photo to places of the old, -1
    to 1), `boxes` int64 [B, 4] (top, left, bottom, right of what is blotted out, in pixels); None
    is left out."""

    colours: torch.Tensor | None = None
    affine: torch.Tensor | None = None
    boxes: torch.Tensor | None = None


NO_CHANGES = Changes()


@dataclass(frozen=True)
class EvalTransform:
    """Resizes whole photos to height x width, bilinear with antialiasing. `mean`, `std` and
    `mean_image` (as `Moments.image`) are for the Normaliser, `least` for the decoder: the sides
    that a JPEG keeps when it is decoded smaller (`catalog.images.decode`)."""

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    mean_image: torch.Tensor | None = field(default=None, compare=False, repr=False)
    least: tuple[int, int] | None = None

    @classmethod
    def from_config(cls, config: Stage1Config, moments: Moments | None = None) -> "EvalTransform":
        """The transform that a configuration asks for; `moments` of the training photos if it asks
        for theirs."""
        mean, std, image = moments or _moments(config)
        return cls(*config.size, mean, std, image, config.decoded)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary for fingerprints; the mean image, if there is one, stands in it as its
        sha256."""
        plain = {"kind": "resize-bilinear-antialias", "height": self.height, "width": self.width}
        plain |= {"mean": list(self.mean), "std": list(self.std)}
        plain |= {"least": list(self.least)} if self.least else {}
        if self.mean_image is None:
            return plain
        return plain | {"mean_image": hashlib.sha256(self.mean_image.numpy().tobytes()).hexdigest()}

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds: to_json, and the mean image itself."""
        return self.to_json() | ({} if self.mean_image is None else {"mean_image": self.mean_image})

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "EvalTransform":
        """Inverse of state, which to_json is without a mean image. Raises ConfigError if the
        dictionary is of another kind."""
        if value.get("kind") != "resize-bilinear-antialias":
            raise ConfigError(
                f"transform: expected kind resize-bilinear-antialias, found {value.get('kind')!r}"
            )
        return cls(
            value["height"],
            value["width"],
            tuple(value["mean"]),
            tuple(value["std"]),
            value.get("mean_image"),
            tuple(value["least"]) if "least" in value else None,
        )

    def centre(self, height: int, width: int) -> torch.Tensor:
        """What is subtracted from photos of a size: float32 [3, height, width], or [3, 1, 1] if it
        is the same everywhere."""
        centre = torch.tensor(self.mean).view(3, 1, 1)
        if self.mean_image is None:
            return centre
        image = self.mean_image[None]
        if image.shape[2:] != (height, width):  # photos are smaller in fine-tuning
            image = interpolate(image, (height, width), mode="bilinear", antialias=True)
        return centre + image[0]

    def empty_batch(self, images: int) -> np.ndarray:
        """Memory for a batch, uint8 [B, height, width, 3]."""
        return np.empty((images, self.height, self.width, 3), dtype=np.uint8)

    def __call__(
        self,
        images: Sequence[np.ndarray],
        _image_ids: np.ndarray | None = None,
        _repeats: np.ndarray | None = None,
        out: np.ndarray | None = None,
    ) -> torch.Tensor:
        """uint8 [H, W, 3] photos of any sizes -> uint8 [B, 3, height, width] in channels_last; the
        ids are not used.

        Photos of one size are resized in one call, three times as fast as one by one and equal to
        the bit. The batch lies in `out` if that is given and the photos are not all resized
        alike; a photo may lie in its own row already, where numpy leaves it.
        """
        by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for row, image in enumerate(images):
            by_shape[image.shape].append(row)
        if len(by_shape) == 1 and images[0].shape[:2] != (self.height, self.width):
            return torch.from_numpy(self._resize(np.stack(images))).permute(0, 3, 1, 2)
        # numpy copies start no threads
        pixels = self.empty_batch(len(images)) if out is None else out[: len(images)]
        for shape, rows in by_shape.items():
            if shape[:2] == (self.height, self.width):
                for row in rows:
                    pixels[row] = images[row]
            else:
                pixels[rows] = self._resize(np.stack([images[row] for row in rows]))
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def _resize(self, stack: np.ndarray) -> np.ndarray:
        photos = torch.from_numpy(stack).permute(0, 3, 1, 2)
        resized = interpolate(photos, (self.height, self.width), mode="bilinear", antialias=True)
        return resized.permute(0, 2, 3, 1).numpy()

    def changes(self, _image_ids: np.ndarray, _repeats: np.ndarray) -> Changes:
        """None, as evaluation leaves photos alone."""
        return NO_CHANGES

    def points(
        self,
        points: np.ndarray,
        _image_ids: np.ndarray,
        _repeats: np.ndarray,
    ) -> np.ndarray:
        """The landmarks as they are, float32 [B, L, 3]."""
        return points


@dataclass(frozen=True)
class TrainTransform:
    """Random changes around the evaluation transform, drawn from seed, epoch, image id and repeat
    alone.

    Crop, mirror and policy are done here, on the processor; colours, turning and erasing by the
    Normaliser, from `changes`. `levelled` repeats of a photo within an epoch are, in turn,
    mirrored, turned left, turned right, and grained.
    """

    base: EvalTransform
    augment: Augment
    seed: int
    epoch: int
    levelled: bool = False

    @property
    def least(self) -> tuple[int, int] | None:
        """As EvalTransform."""
        return self.base.least

    def empty_batch(self, images: int) -> np.ndarray:
        """As EvalTransform."""
        return self.base.empty_batch(images)

    def __call__(
        self,
        images: Sequence[np.ndarray],
        image_ids: np.ndarray,
        repeats: np.ndarray | None = None,
        out: np.ndarray | None = None,
    ) -> torch.Tensor:
        """As EvalTransform; `image_ids` int64 [B], `repeats` int64 [B] (0 if None)."""
        repeats = np.zeros(len(images), dtype=np.int64) if repeats is None else repeats
        draws = self._draws(image_ids, repeats, 5, _GEOMETRY)
        variants = self._variants(repeats)
        cropped = [
            self._crop(
                self._grain(image, int(i), int(r)) if variant == _GRAINED else image,
                draw,
                variant == _MIRRORED,
            )
            for image, i, r, variant, draw in zip(
                images, image_ids, repeats, variants, draws, strict=True
            )
        ]
        pixels = self.base(cropped, out=out)
        if count := policies.draws_needed(self.augment):
            for image, draw in zip(
                pixels, self._draws(image_ids, repeats, count, _POLICY), strict=True
            ):
                image.copy_(policies.apply(self.augment, image, draw))
        return pixels

    def _draws(
        self, image_ids: np.ndarray, repeats: np.ndarray, count: int, stream: int
    ) -> np.ndarray:
        return uniforms(self.seed, self.epoch, image_ids, count, stream=stream, repeats=repeats)

    def _variants(self, repeats: np.ndarray) -> np.ndarray:
        """What each repeat is besides: 0 nothing, else one of the four."""
        return np.where(repeats > 0, (repeats - 1) % 4 + 1, 0) * self.levelled

    def _grain(self, image: np.ndarray, image_id: int, repeat: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, self.epoch, image_id, repeat])
        noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(_GRAIN)
        return (image + noise).clip(0, 255).astype(np.uint8)

    def _crop(self, image: np.ndarray, draw: np.ndarray, mirrored: bool = False) -> np.ndarray:
        """A crop of random area, ratio and place (as torchvision's RandomResizedCrop), perhaps
        mirrored."""
        height, width = image.shape[:2]
        wide, high = self._kept(draw)
        high, wide = max(1, round(height * high)), max(1, round(width * wide))
        top, left = int(draw[2] * (height - high + 1)), int(draw[3] * (width - wide + 1))
        step = -1 if mirrored != (self.augment.flip and draw[4] < 0.5) else 1
        return image[top : top + high, left : left + wide][:, ::step]

    def _kept(self, draws: np.ndarray) -> np.ndarray:
        """Shares of the width and of the height that crops keep, [2, ...] of draws [5, ...]."""
        share = self.augment.crop + (1 - self.augment.crop) * draws[0]
        stretch = self.augment.stretch ** (2 * draws[1] - 1)
        return np.minimum(1, np.stack([share * stretch, share / stretch]) ** 0.5)

    def points(self, points: np.ndarray, image_ids: np.ndarray, repeats: np.ndarray) -> np.ndarray:
        """Where landmarks (as in catalog.landmarks, float32 [B, L, 3]) come to lie; outside the
        photo they are not seen."""
        draws = self._draws(image_ids, repeats, 5, _GEOMETRY)
        kept = self._kept(draws.T).T
        positions = (points[..., :2] - (draws[:, [3, 2]] * (1 - kept))[:, None]) / kept[:, None]
        if self.augment.flip:
            mirrored = draws[:, 4] < 0.5
            positions[mirrored, :, 0] = 1 - positions[mirrored, :, 0]
        if (affine := self._affine(image_ids, repeats)) is not None:
            back = np.linalg.inv(affine[:, :, :2].numpy())
            positions = (
                (2 * positions - 1 - affine[:, None, :, 2].numpy()) @ back.transpose(0, 2, 1) + 1
            ) / 2
        seen = points[..., 2] * ((positions >= 0) & (positions < 1)).all(axis=2)
        return np.concatenate([positions, seen[..., None]], axis=2).astype(np.float32)

    def changes(self, image_ids: np.ndarray, repeats: np.ndarray) -> Changes:
        """For the Normaliser."""
        return Changes(
            self._colours(image_ids, repeats),
            self._affine(image_ids, repeats),
            self._boxes(image_ids, repeats),
        )

    def _colours(self, image_ids: np.ndarray, repeats: np.ndarray) -> torch.Tensor | None:
        if not self.augment.colour:
            return None
        draws = self._draws(image_ids, repeats, 3, _COLOUR)
        return torch.from_numpy((1 + self.augment.colour * (2 * draws - 1)).astype(np.float32))

    def _affine(self, image_ids: np.ndarray, repeats: np.ndarray) -> torch.Tensor | None:
        """Turn, shear and zoom about the centre, then shift; degrees and shares are uniform up to
        the limits."""
        augment, variants = self.augment, self._variants(repeats)
        turned = np.where(variants == _LEFT, 1.0, np.where(variants == _RIGHT, -1.0, 0.0))
        if not (augment.rotate or augment.shift or augment.shear or augment.zoom or turned.any()):
            return None
        draws = 2 * self._draws(image_ids, repeats, 5, _AFFINE) - 1
        turn = self._draws(image_ids, repeats, 1, _REPEAT)[:, 0] * _TURN * turned
        angle = np.deg2rad(augment.rotate * draws[:, 0] + turn)
        lean, zoom = (
            np.tan(np.deg2rad(augment.shear * draws[:, 1])),
            1 / (1 + augment.zoom * draws[:, 2]),
        )
        # places run from -1 to 1 on both sides, so a turn of a photo that is not square needs its
        # ratio
        ratio = self.base.height / self.base.width
        sine, cosine = np.sin(angle), np.cos(angle)
        shift = 2 * augment.shift * draws[:, 3:]
        top = np.stack([zoom * cosine, zoom * (lean * cosine - sine) * ratio, shift[:, 0]], axis=1)
        low = np.stack([zoom * sine / ratio, zoom * (lean * sine + cosine), shift[:, 1]], axis=1)
        return torch.from_numpy(np.stack([top, low], axis=1).astype(np.float32))

    def _boxes(self, image_ids: np.ndarray, repeats: np.ndarray) -> torch.Tensor | None:
        """Rectangles of 2% to 33% of the photo, sides 3:10 to 10:3, as torchvision's RandomErasing;
        else empty."""
        if not self.augment.erase:
            return None
        height, width = self.base.height, self.base.width
        draws = self._draws(image_ids, repeats, 5, _ERASE)
        area = (0.02 + 0.31 * draws[:, 1]) * height * width * (draws[:, 0] < self.augment.erase)
        ratio = 0.3 ** (1 - 2 * draws[:, 2])
        high = np.minimum(height, np.round((area * ratio) ** 0.5)).astype(np.int64)
        wide = np.minimum(width, np.round((area / ratio) ** 0.5)).astype(np.int64)
        top = (draws[:, 3] * (height - high + 1)).astype(np.int64)
        left = (draws[:, 4] * (width - wide + 1)).astype(np.int64)
        return torch.from_numpy(np.stack([top, left, top + high, left + wide], axis=1))


def _moments(config: Stage1Config) -> Moments:
    if config.normalisation == "auto":
        return Moments(*pretraining(config.backbone)[1:])
    return (
        Moments(*IMAGENET[1:])
        if config.normalisation == "imagenet"
        else Moments((0.5,) * 3, (0.5,) * 3)
    )


class Normaliser:
    """On the device: uint8 [B, 3, H, W] -> float32 in channels_last, less the mean, over the
    standard deviation."""

    def __init__(self, transform: EvalTransform, device: torch.device) -> None:
        self.device = device
        self.transform = transform
        self.centres: dict[tuple[int, int], torch.Tensor] = {}
        self.scale = 1 / torch.tensor(transform.std, device=device)
        self.luma = torch.tensor(_LUMA, device=device).view(1, 3, 1, 1)

    def __call__(self, pixels: torch.Tensor, changes: Changes = NO_CHANGES) -> torch.Tensor:
        """`changes` as from TrainTransform.changes."""
        colours, affine, boxes = (
            change if change is None else self._moved(change) for change in changes
        )
        values = self._moved(pixels)
        values = values.to(torch.float32, memory_format=torch.channels_last).mul_(1 / 255)
        if colours is not None:
            values = self._recolour(values, colours)
        if affine is not None:
            grid = affine_grid(affine, list(values.shape), align_corners=False)
            values = grid_sample(values, grid, padding_mode="border", align_corners=False)
        values = values.contiguous(memory_format=torch.channels_last)
        _, _, height, width = values.shape
        rows = values.permute(0, 2, 3, 1).view(
            -1, height, 3 * width
        )  # three channels are too few for a processor's vectors
        rows.sub_(self._centre(height, width)).mul_(self.scale.repeat(width))
        return values if boxes is None else self._erase(values, boxes)

    def _centre(self, height: int, width: int) -> torch.Tensor:
        """EvalTransform.centre, as the photos lie in memory: float32 [height, 3 * width]."""
        if (height, width) not in self.centres:
            centre = self.transform.centre(height, width).expand(3, height, width).permute(1, 2, 0)
            self.centres[height, width] = centre.reshape(height, 3 * width).to(self.device)
        return self.centres[height, width]

    def _moved(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.device, non_blocking=True)

    def _erase(self, values: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        top, left, bottom, right = boxes[:, :, None].unbind(1)
        rows, columns = (torch.arange(side, device=self.device)[None] for side in values.shape[2:])
        down, across = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
        return values.masked_fill_((down[:, :, None] & across[:, None, :])[:, None], 0)

    def _recolour(self, values: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        brightness, contrast, saturation = factors.view(-1, 3, 1, 1, 1).unbind(1)
        values = values * brightness
        gray = (values * self.luma).sum(1, keepdim=True)
        centre = gray.mean((2, 3), keepdim=True)
        # contrast around the photo's mean gray, then saturation around each pixel's gray, which
        # contrast moves alike
        values = (
            values * (contrast * saturation)
            + gray * (contrast * (1 - saturation))
            + centre * (1 - contrast)
        )
        return values.clamp_(0, 1)


def uniforms(
    seed: int,
    epoch: int,
    image_ids: np.ndarray,
    count: int,
    *,
    stream: int,
    repeats: np.ndarray | None = None,
) -> np.ndarray:
    """Uniform numbers in [0, 1), float64 [B, count]: a pure function, so that neither batches nor
    workers matter.

    The generator is splitmix64 (Steele, Lea, Flood 2014), keyed by image.
    """
    key = splitmix64(np.array([seed], dtype=np.uint64))
    key = splitmix64(splitmix64(key ^ np.uint64(epoch)) ^ np.uint64(stream))
    key = splitmix64(key ^ np.asarray(image_ids).astype(np.uint64))
    if repeats is not None and repeats.any():
        key = np.where(repeats > 0, splitmix64(key ^ repeats.astype(np.uint64)), key)
    key = key[:, None]
    steps = np.arange(1, count + 1, dtype=np.uint64) * GOLDEN
    return (splitmix64(key + steps) >> np.uint64(11)).astype(np.float64) * 2.0**-53
