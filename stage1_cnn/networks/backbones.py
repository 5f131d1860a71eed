"""Networks: a backbone, its last linear layer taken off, and a new head for K categories.

Weights come from torchvision (downloaded and checked) or timm, from a file, or are random. What
does not fit is refused with the keys that differ.
"""

import pickle
import re
import urllib.error
from collections.abc import Mapping
from pathlib import Path

import torch
import torchvision
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from catalog.errors import ConfigError
from stage1_cnn.networks.architectures import TIMM, make
from stage1_cnn.networks.blocks import blocks

_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


class Network(nn.Module):
    """`backbone` (float32 [B, 3, H, W] -> features [B, D]) and `head` (linear, D -> K)."""

    def __init__(self, backbone: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.norm_frozen, self.whole = False, True
        self.trainable: list[nn.Module] = []

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Bottleneck features, float32 [B, D], whatever the precision of the backbone."""
        return self.backbone(images).float()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits, float32 [B, K]; the head is always computed in float32."""
        features = self.features(images)
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features)

    def freeze(self, trainable: int | str) -> None:
        """Leaves the last `trainable` blocks of the backbone (`all`: all of it) to be trained; the
        rest gets no gradients and stays in evaluation mode, so that its batch norm doesn't move."""
        parts = blocks(self.backbone)
        self.backbone.requires_grad_(trainable == "all")
        kept = (
            parts if trainable == "all" else parts[len(parts) - min(int(trainable), len(parts)) :]
        )
        self.trainable = [module.requires_grad_(True) for modules in kept for module in modules]
        self.whole = trainable == "all"
        self.train(self.training)

    def train(self, mode: bool = True) -> "Network":
        """As any module's, but for frozen blocks or frozen batch norm."""
        super().train(mode)
        if not self.whole:
            self.backbone.eval()
            for module in self.trainable:
                module.train(mode)
        if self.norm_frozen:
            for module in self._batch_norms():
                module.eval()
        return self

    def freeze_norm(self, choice: str) -> None:
        """Batch norm keeps its statistics if `choice` is `frozen`, learns them if `train`; `auto`
        keeps those that were folded into the filters (means 0, variances 1, as quantised releases
        have them), which batch statistics would wreck."""
        norms = self._batch_norms()
        folded = bool(norms) and all(map(_is_folded, norms))
        self.norm_frozen = choice == "frozen" or (choice == "auto" and folded)
        self.train(self.training)

    def _batch_norms(self) -> list[_BatchNorm]:
        return [module for module in self.backbone.modules() if isinstance(module, _BatchNorm)]


def _is_folded(norm: _BatchNorm) -> bool:
    mean, variance = norm.running_mean, norm.running_var
    return (
        mean is not None
        and variance is not None
        and bool((mean == 0).all() and (variance == 1).all())
    )


def build(
    name: str, classes: int, *, width: float = 1.0, weights: str = "none", seed: int = 0
) -> Network:
    """A network for `classes` categories; head and random weights follow from `seed`, whatever was
    drawn before.

    `width` and `weights` are as in Stage1Config. Raises ConfigError where the name is unknown or
    the weights don't fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        backbone, place, layer = make(name, width)
        backbone.set_submodule(place, nn.Identity())
        torch.default_generator.manual_seed(seed)  # again: one head for every backbone of its width
        head = nn.Linear(layer.in_features, classes)
    if weights != "none":
        source, state = (
            _imagenet(name) if weights == "imagenet" else _from_file(Path(weights), name)
        )
        _fit(backbone, state, place, f"stage1.weights: {source} does not fit {name}")
    return Network(backbone, head)


def synchronised(network: Network, name: str) -> Network:
    """The network with batch norm over all processes, in the place of its own."""
    if name.startswith(TIMM):  # whose batch norm also activates, which PyTorch's conversion drops
        from timm.layers import convert_sync_batchnorm

        return convert_sync_batchnorm(network)
    return nn.SyncBatchNorm.convert_sync_batchnorm(network)


def check_size(network: Network, name: str, size: tuple[int, int]) -> None:
    """Raises ConfigError where images of (height, width) pixels can't pass through the network."""
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            network(torch.zeros(1, 3, *size, device=network.head.weight.device))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(
            f"stage1.image_size: {name} can't take {size[0]} x {size[1]} pixels ({error})"
        ) from error
    finally:
        network.train(training)


def _imagenet(name: str) -> tuple[str, Mapping[str, torch.Tensor]]:
    """ImageNet weights from the cache of torchvision or timm, or downloaded; torchvision's hash is
    checked."""
    if name.startswith(TIMM):
        return _imagenet_of_timm(name)
    found = torchvision.models.get_model_weights("vgg16" if name == "vgg16_landmarks" else name)
    # V1 by choice: the features of the longer V2 recipes transfer less well under a linear head
    weights = found["IMAGENET1K_V1"] if "IMAGENET1K_V1" in found.__members__ else found.DEFAULT
    try:
        load = torch.hub.load_state_dict_from_url
        return weights.url, load(
            weights.url, map_location="cpu", check_hash=True, weights_only=True
        )
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise _not_downloaded(name, weights.url, error) from error


def _imagenet_of_timm(name: str) -> tuple[str, Mapping[str, torch.Tensor]]:
    import timm

    own = name.removeprefix(TIMM)
    known = timm.get_pretrained_cfg(own)
    if known is None or not (known.hf_hub_id or known.url):
        raise ConfigError(
            f"stage1.weights: timm has no ImageNet weights for {own}; expected none, or a file"
        )
    source = f"https://huggingface.co/{known.hf_hub_id}" if known.hf_hub_id else str(known.url)
    try:
        return source, timm.create_model(own, pretrained=True).state_dict()
    except (OSError, RuntimeError, ValueError) as error:
        raise _not_downloaded(name, source, error) from error


def _not_downloaded(name: str, source: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"stage1.weights: the ImageNet weights of {name} could not be downloaded ({error}); "
        f"fetch {source} yourself and set stage1.weights=FILE, "
        "or train from nothing with stage1.weights=none"
    )


def _from_file(path: Path, name: str) -> tuple[str, Mapping[str, torch.Tensor]]:
    """A state_dict, or the backbone of a checkpoint of stage 1; tensors only, a file with code in
    it is refused."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(
            f"stage1.weights: no such file: {path}; expected imagenet, none, or a file"
        ) from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"stage1.weights: {path} does not load as plain tensors: {reason}"
        ) from error
    if isinstance(content, Mapping) and "network" in content:
        trained = content.get("config", {}).get("backbone")
        if trained != name:
            raise ConfigError(
                f"stage1.weights: {path} is a checkpoint of {trained}, "
                f"expected {name} (stage1.backbone)"
            )
        content = {
            k.removeprefix("backbone."): v
            for k, v in content["network"].items()
            if k.startswith("backbone.")
        }
    if not isinstance(content, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in content.values()
    ):
        found = type(content).__name__
        raise ConfigError(
            f"stage1.weights: {path} holds a {found}, expected a state_dict: names to tensors"
        )
    return str(path), content


def _fit(backbone: nn.Module, state: Mapping[str, torch.Tensor], head: str, problem: str) -> None:
    """Loads `state`, all but its classification layer `head`, strictly. Raises ConfigError naming
    what differs."""
    own = backbone.state_dict()
    given = {_OLD_DENSENET.sub(r"\1\2", key): value for key, value in state.items()}
    given = {
        key: value for key, value in given.items() if key not in (f"{head}.weight", f"{head}.bias")
    }
    if new := getattr(backbone, "UNTRAINED", ""):
        own = (
            own
            if any(key.startswith(new) for key in given)
            else {key: own[key] for key in own if not key.startswith(new)}
        )
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
    backbone.load_state_dict(
        {key: given[key].to(own[key].dtype) if key in given else own[key] for key in own},
        strict=not new,
    )
