"""The blocks of a backbone, from its input to its head: the units of layer-wise learning rates and
partial training."""

from torch import nn

from catalog.errors import ConfigError

_MOST = 0.8
"""A module that holds this share of all weights is not a block but a list of blocks (`features`,
`encoder`, `trunk_output`)."""


def blocks(backbone: nn.Module) -> list[list[nn.Module]]:
    """The blocks in their order, each a list of modules: a stage of ResNet, a layer of a
    transformer or of MobileNet.

    A normalisation layer that stands alone belongs to the block before it.
    """
    total = _weights(backbone)
    grouped: list[list[nn.Module]] = []
    for module in _parts(backbone, total):
        if grouped and all(parameter.ndim < 2 for parameter in module.parameters()):
            grouped[-1].append(module)
        else:
            grouped.append([module])
    return grouped


def _parts(module: nn.Module, total: int) -> list[nn.Module]:
    out = []
    for child in module.children():
        weights = _weights(child)
        if weights > _MOST * total and any(True for _ in child.children()):
            out += _parts(child, total)
        elif weights:
            out.append(child)
    return out


def _weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def depths(backbone: nn.Module) -> dict[nn.Parameter, int]:
    """How many blocks each parameter is away from the head: 1 in the last block; what belongs to no
    block (tokens, positions) counts as part of the first."""
    parts = blocks(backbone)
    out = dict.fromkeys(backbone.parameters(), len(parts))
    for depth, modules in enumerate(reversed(parts), 1):
        out |= {parameter: depth for module in modules for parameter in module.parameters()}
    return out


def set_drop_path(backbone: nn.Module, rate: float, name: str) -> None:
    """Sets the rates at which residual branches are skipped, rising from 0 to `rate` over the depth
    (stochastic depth, Huang et al. 2016). Raises ConfigError if the backbone has no such
    branches."""
    branches = [module for module in backbone.modules() if type(module).__name__ in _DROP_PATH]
    if not branches:
        expected = "expected a backbone that has, such as convnext_tiny, or null"
        raise ConfigError(f"stage1.drop_path: {name} has no branches to skip; {expected}")
    for depth, module in enumerate(branches):
        setattr(module, _DROP_PATH[type(module).__name__], rate * depth / max(1, len(branches) - 1))


_DROP_PATH = {"StochasticDepth": "p", "DropPath": "drop_prob"}
"""The modules that skip a branch, torchvision's and timm's, and the attribute that holds the rate.
"""
