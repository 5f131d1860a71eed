"""Networks: a backbone, its last linear layer taken off, and a new head for K categories."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from catalog.errors import ConfigError
from stage1_cnn.networks.architectures import make
from stage1_cnn.networks.blocks import blocks
from stage1_cnn.networks.weights import load_into


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
        have them), which batch statistics would destroy."""
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
    """A network for `classes` categories; head and random weights depend on `seed` alone.

    `width` and `weights` are as in Stage1Config. Raises ConfigError if the name is unknown or
    the weights don't fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        backbone, layer_name, features = make(name, width)
        if layer_name:
            backbone.set_submodule(layer_name, nn.Identity())
        torch.default_generator.manual_seed(seed)  # again: one head for every backbone of its width
        head = nn.Linear(features, classes)
    if weights != "none":
        load_into(backbone, name, weights, layer_name)
    return Network(backbone, head)


def synchronised(network: Network) -> Network:
    """The network with its batch norm replaced by one over all processes."""
    from timm.layers import (
        convert_sync_batchnorm,
    )  # timm's batch norm also activates, which PyTorch's own conversion drops

    return convert_sync_batchnorm(network)


def check_size(network: Network, name: str, size: tuple[int, int]) -> None:
    """Raises ConfigError if images of (height, width) pixels can't pass through the network."""
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
