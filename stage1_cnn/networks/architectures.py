"""Which networks there are, by name: torchvision's, our own (`stage1_cnn.networks`),
EfficientNet-Lite and, as `timm:NAME`, any other of timm's. And what each one's pretrained weights
were trained on; not the weights themselves."""

import difflib
from collections.abc import Callable
from typing import NamedTuple, cast

import torchvision
from torch import nn

from catalog.errors import ConfigError
from stage1_cnn.networks.landmarks import LandmarkVgg16
from stage1_cnn.networks.vanilla import Vanilla
from stage1_cnn.networks.vgg import Vgg16

TIMM = "timm:"
LITE = {f"efficientnet_lite{number}": f"tf_efficientnet_lite{number}" for number in range(3)}
"""EfficientNet-Lite, and its name in timm, which pads as TensorFlow does (`SAME`), as the
weights need it."""
_AUXILIARY = ("googlenet", "inception_v3")
_WITH_WIDTH: dict[str, Callable[[float], nn.Module]] = {
    "mobilenet_v2": lambda width: torchvision.models.mobilenet_v2(width_mult=width),
    "vanilla": Vanilla,
    "vgg16": Vgg16,
    "vgg16_landmarks": LandmarkVgg16,
}
_OWN = {"vanilla", "vgg16_landmarks", "nasnet_mobile", *LITE}


class Architecture(NamedTuple):
    """A network, the name of the classification layer it came with (empty if it has none),
    and its number of features."""

    module: nn.Module
    layer_name: str
    width: int


class Pretraining(NamedTuple):
    """What a network's pretrained weights were trained on: height and width in pixels; mean and
    standard deviation of each channel, on the scale where a pixel is 0 to 1."""

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Pretraining((224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def check_name(name: str) -> str:
    """The name, if it is a usable network. Raises ConfigError with the nearest names."""
    if name.startswith(TIMM):
        return _check_timm(name)
    known = torchvision.models.list_models(module=torchvision.models)
    if name in _OWN or (name in known and name not in _AUXILIARY):
        return name
    reason = (
        "has auxiliary classifiers, which stage 1 does not train" if name in known else "is unknown"
    )
    near = _nearest(name, sorted({*known, *_OWN} - {*_AUXILIARY})) or "resnet50, efficientnet_lite0"
    expected = f"a classification network of torchvision, such as {near}, or timm:NAME"
    raise ConfigError(f"stage1.backbone: {name!r} {reason}; expected {expected}")


def _check_timm(name: str) -> str:
    import timm

    own = name.removeprefix(TIMM)
    plain, _, tag = own.partition(".")
    if timm.is_model(plain):
        tagged = timm.list_pretrained(f"{plain}.*")
        if tag and own not in tagged:
            expected = f"expected one of {', '.join(tagged)}" if tagged else f"expected {plain}"
            raise ConfigError(f"stage1.backbone: timm has no weights {own!r}; {expected}")
    else:
        near = _nearest(own, timm.list_models()) or "mobilenetv1_100"
        raise ConfigError(
            f"stage1.backbone: timm has no network {own!r}; expected one that it has, such as "
            f"{near}"
        )
    return name


def _nearest(name: str, names: list[str]) -> str:
    return ", ".join(difflib.get_close_matches(name, names, 4, 0.5))


def in_timm(name: str) -> str | None:
    """A network's name in timm, None if timm does not have it or it is not asked for from there."""
    return name.removeprefix(TIMM) if name.startswith(TIMM) else LITE.get(name)


def pretraining(name: str) -> Pretraining:
    """What the network's pretrained weights were trained on; torchvision's usual values if it has
    none."""
    check_name(name)
    if name == "nasnet_mobile":
        return IMAGENET._replace(mean=(0.5,) * 3, std=(0.5,) * 3)
    own = in_timm(name)
    if own is None:
        return IMAGENET
    import timm

    known = timm.get_pretrained_cfg(own)
    if known is None:
        return IMAGENET
    data = timm.data.resolve_data_config(pretrained_cfg=known.to_dict())
    if name in LITE:  # (x - 127) / 128, which timm rounds
        data |= {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
    return Pretraining(tuple(data["input_size"][1:]), tuple(data["mean"]), tuple(data["std"]))


def make(name: str, width: float = 1.0) -> Architecture:
    """The network with random weights, drawn from the default generator.

    Raises ConfigError if there is none of that name or of that width, or if it does not end in a
    linear layer.
    """
    check_name(name)
    if name in _WITH_WIDTH:
        module = _WITH_WIDTH[name](width)
    elif width != 1:
        raise ConfigError(
            f"stage1.width: {name} comes in one width; expected 1, or one of "
            f"{', '.join(_WITH_WIDTH)}"
        )
    elif name == "nasnet_mobile":
        from stage1_cnn.networks.nasnet import NasnetMobile  # timm takes a second to load

        module = NasnetMobile()
    elif own := in_timm(name):
        module = _make_timm(own)
    else:
        module = torchvision.models.get_model(name, weights=None)
    return _split(name, module)


def _make_timm(own: str) -> nn.Module:
    import timm

    try:
        return timm.create_model(own, dynamic_img_size=True)
    except TypeError:  # no vision transformer: these take one size alone unless asked
        return timm.create_model(own)


def _split(name: str, module: nn.Module) -> Architecture:
    layers = list(module.named_modules())
    if in_timm(name):
        layer = module.get_classifier()  # type: ignore[operator]  # a method of timm's networks
        if isinstance(layer, nn.Identity):  # pretrained without categories, such as DINOv2
            return Architecture(module, "", cast("int", module.head_hidden_size))
        layers = [pair for pair in layers if pair[1] is layer] or [("", layer)]
    layer_name, layer = layers[-1]
    if not isinstance(layer, nn.Linear):
        last = type(layer).__name__
        raise ConfigError(
            f"stage1.backbone: {name} ends in {last}, expected a linear layer that the head can "
            "replace"
        )
    return Architecture(module, layer_name, layer.in_features)
