import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from stage1_cnn.device import choose_compute
from stage1_cnn.networks.backbones import Network, build
from stage1_cnn.networks.padding import seen, zero_gradient_in_padding


@pytest.mark.parametrize(
    ("options", "size", "expected"),
    [
        ({"padding": 1}, (4, 4), [[1, 1, 1]] * 3),
        ({"padding": 1}, (1, 1), [[0, 0, 0], [0, 1, 0], [0, 0, 0]]),
        ({"padding": 1, "stride": 2}, (4, 1), [[0, 1, 0]] * 3),
        ({"padding": 1, "stride": 2}, (2, 2), [[0, 0, 0], [0, 1, 1], [0, 1, 1]]),
        ({"padding": 1, "padding_mode": "reflect"}, (2, 2), [[1, 1, 1]] * 3),
        ({"padding": 2, "dilation": 2}, (2, 2), [[0, 0, 0], [0, 1, 0], [0, 0, 0]]),
        ({"padding": "same"}, (1, 3), [[0, 0, 0], [1, 1, 1], [0, 0, 0]]),
    ],
)
def test_positions_that_see_a_pixel(
    options: dict, size: tuple[int, int], expected: list[list[int]]
) -> None:
    convolution = nn.Conv2d(2, 2, 3, **options)
    assert seen(convolution, *size).int().tolist() == expected


@pytest.mark.parametrize("size", [(12, 12), (64, 16)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_are_those_of_full_precision_whatever_lay_in_memory(
    precision: str, size: tuple[int, int]
) -> None:
    expected = _gradients("fp32", size)
    for value in (math.nan, 1e30, 3e4):
        for name, gradient in _gradients(precision, size, before=value).items():
            assert gradient.isfinite().all(), name
            assert gradient.norm() < 3 * expected[name].norm() + 1e-3, name


@pytest.mark.parametrize("side", [32, 64])
def test_a_network_that_pads_by_itself(side: int) -> None:
    """At the last blocks its kernels of 5 are larger than the map before it is padded."""
    network = build("efficientnet_lite0", 4, weights="none")
    zero_gradient_in_padding(network, (side, side))
    network(torch.randn(2, 3, side, side)).sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


def test_a_convolution_that_is_met_twice_keeps_what_either_sees() -> None:
    shared = nn.Conv2d(3, 3, 3, padding=1)
    backbone = nn.Sequential(shared, nn.AdaptiveAvgPool2d(1), shared, nn.Flatten())
    network = Network(backbone, nn.Linear(3, 2))
    zero_gradient_in_padding(network, (8, 8))
    network(torch.randn(2, 3, 8, 8)).sum().backward()
    assert shared.weight.grad is not None and (shared.weight.grad != 0).all()


def _gradients(
    precision: str, size: tuple[int, int], before: float = 0.0
) -> dict[str, torch.Tensor]:
    """Gradients of a ResNet-18's filters, with freed memory full of one value before they are
    computed."""
    compute = choose_compute("cpu", precision)
    network = build("resnet18", 8, weights="none").to(memory_format=torch.channels_last)
    zero_gradient_in_padding(network, size)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(25, 3, *size, generator=generator)
    with compute.autocast():
        logits = network(images.contiguous(memory_format=torch.channels_last)).float()
    loss = cross_entropy(logits, torch.arange(25) % 8)
    freed = [torch.full((4**power,), before) for power in range(4, 12) for _ in range(6)]
    del freed
    loss.backward()
    return {n: p.grad for n, p in network.named_parameters() if p.ndim == 4 and p.grad is not None}
