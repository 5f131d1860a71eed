"""RandAugment and TrivialAugment: operations drawn at random from a fixed list, for each image from
numbers of its own.

torchvision has both, but they draw from the default generator, on which decoding threads would
race.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from stage1_cnn.config import Augment

_GRAY = [128.0] * 3
Operation = Callable[[torch.Tensor, float], torch.Tensor]


def _affine(
    image: torch.Tensor, *, shift: tuple[float, float] = (0, 0), shear: tuple[float, float] = (0, 0)
) -> torch.Tensor:
    degrees = [math.degrees(math.atan(value)) for value in shear]
    options = {"interpolation": InterpolationMode.BILINEAR, "fill": _GRAY}
    return F.affine(image, 0.0, [round(value) for value in shift], 1.0, degrees, **options)


def _posterize(image: torch.Tensor, lost: float) -> torch.Tensor:
    return F.posterize(image, 8 - round(abs(lost)))


# Operation, and its largest magnitude in RandAugment and in TrivialAugment ("wide"), as in
# torchvision. Magnitudes are negative half of the time; torchvision gives shifts as shares of the
# side for the one, as pixels of 224 for the other.
_OPERATIONS: tuple[tuple[Operation, float, float], ...] = (
    (lambda image, _: image, 0, 0),
    (lambda image, size: _affine(image, shear=(size, 0)), 0.3, 0.99),
    (lambda image, size: _affine(image, shear=(0, size)), 0.3, 0.99),
    (lambda image, size: _affine(image, shift=(size * image.shape[2], 0)), 150 / 331, 32 / 224),
    (lambda image, size: _affine(image, shift=(0, size * image.shape[1])), 150 / 331, 32 / 224),
    (lambda image, size: F.rotate(image, size, InterpolationMode.BILINEAR, fill=_GRAY), 30, 135),
    (lambda image, size: F.adjust_brightness(image, 1 + size), 0.9, 0.99),
    (lambda image, size: F.adjust_saturation(image, 1 + size), 0.9, 0.99),
    (lambda image, size: F.adjust_contrast(image, 1 + size), 0.9, 0.99),
    (lambda image, size: F.adjust_sharpness(image, 1 + size), 0.9, 0.99),
    (_posterize, 4, 6),
    (lambda image, size: F.solarize(image, 255 * (1 - abs(size))), 1, 1),
    (lambda image, _: F.autocontrast(image), 0, 0),
    (lambda image, _: F.equalize(image), 0, 0),
)


def draws_needed(augment: Augment) -> int:
    """Number of random numbers that `apply` takes per image."""
    return {"none": 0, "randaugment": 2 * augment.operations, "trivialaugment": 3}[augment.policy]


def apply(augment: Augment, image: torch.Tensor, draws: np.ndarray) -> torch.Tensor:
    """uint8 [3, H, W] -> the same, changed by the policy; `draws` are `draws_needed` numbers in
    [0, 1)."""
    if augment.policy == "trivialaugment":
        operation, _, most = _OPERATIONS[int(draws[0] * len(_OPERATIONS))]
        return operation(image, most * math.floor(draws[2] * 31) / 30 * _sign(draws[1]))
    for which, side in draws.reshape(-1, 2):
        operation, most, _ = _OPERATIONS[int(which * len(_OPERATIONS))]
        image = operation(image, most * augment.magnitude / 30 * _sign(side))
    return image


def _sign(draw: float) -> int:
    return -1 if draw < 0.5 else 1
