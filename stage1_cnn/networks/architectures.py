"""Which networks there are, by name: torchvision's, our own (`stage1_cnn.networks`), and timm's as
`timm:NAME`; no weights."""

import difflib
import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import torchvision
from torch import nn

from catalog.errors import ConfigError
from stage1_cnn.networks.landmarks import LandmarkVgg16
from stage1_cnn.networks.vanilla import Vanilla
from stage1_cnn.networks.vgg import Vgg16

TIMM = "timm:"
_AUXILIARY = ("googlenet", "inception_v3")
_WITH_WIDTH: dict[str, Callable[[float], nn.Module]] = {
    "mobilenet_v2": lambda width: torchvision.models.mobilenet_v2(width_mult=width),
    "vanilla": Vanilla,
    "vgg16": Vgg16,
    "vgg16_landmarks": LandmarkVgg16,
}
_OWN = {"vanilla", "vgg16_landmarks"}


class Architecture(NamedTuple):
    """A network with the classification layer it came with, and where that is."""

    module: nn.Module
    place: str
    layer: nn.Linear


def check_name(name: str) -> str:
    """The name, where it is a usable network. Raises ConfigError with the nearest names, or what to
    install."""
    if name.startswith(TIMM):
        return _check_timm(name)
    known = torchvision.models.list_models(module=torchvision.models)
    if name in _OWN or (name in known and name not in _AUXILIARY):
        return name
    reason = (
        "has auxiliary classifiers, which stage 1 does not train" if name in known else "is unknown"
    )
    near = _nearest(name, sorted({*known, *_OWN} - {*_AUXILIARY})) or "resnet50, mobilenet_v2"
    expected = f"a classification network of torchvision, such as {near}, or timm:NAME"
    raise ConfigError(f"stage1.backbone: {name!r} {reason}; expected {expected}")


def _check_timm(name: str) -> str:
    if importlib.util.find_spec("timm") is None:
        raise ConfigError(
            f"stage1.backbone: {name} needs the package timm; "
            "install it with: pip install 'shelfsort[backbones]'"
        )
    import timm

    own = name.removeprefix(TIMM)
    if not timm.is_model(own.partition(".")[0]):
        near = _nearest(own, timm.list_models()) or "mobilenetv1_100"
        raise ConfigError(
            f"stage1.backbone: timm has no network {own!r}; "
            f"expected one that it has, such as {near}"
        )
    return name


def _nearest(name: str, names: list[str]) -> str:
    return ", ".join(difflib.get_close_matches(name, names, 4, 0.5))


def make(name: str, width: float = 1.0) -> Architecture:
    """The network with random weights, drawn from the default generator.

    Raises ConfigError where there is none of that name or of that width, or where it does not end
    in a linear layer.
    """
    check_name(name)
    if name in _WITH_WIDTH:
        module = _WITH_WIDTH[name](width)
    elif width != 1:
        raise ConfigError(
            f"stage1.width: {name} comes in one width; "
            f"expected 1, or one of {', '.join(_WITH_WIDTH)}"
        )
    elif name.startswith(TIMM):
        import timm

        module = timm.create_model(name.removeprefix(TIMM))
    else:
        module = torchvision.models.get_model(name, weights=None)
    place, layer = _classifier(name, module)
    return Architecture(module, place, layer)


def _classifier(name: str, module: nn.Module) -> tuple[str, nn.Linear]:
    found = list(module.named_modules())
    if name.startswith(TIMM):
        layer = module.get_classifier()  # type: ignore[operator]  # a method of timm's networks
        found = [pair for pair in found if pair[1] is layer] or [("", layer)]
    if not isinstance(found[-1][1], nn.Linear):
        last = type(found[-1][1]).__name__
        raise ConfigError(
            f"stage1.backbone: {name} ends in {last}, "
            "expected a linear layer that the head can replace"
        )
    return found[-1]
