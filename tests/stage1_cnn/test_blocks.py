import pytest
import torch

from catalog.errors import ConfigError
from stage1_cnn.backbones import build
from stage1_cnn.blocks import blocks, depths, set_drop_path
from tests.stage1_cnn.conftest import BACKBONE


@pytest.mark.parametrize(
    "name, count",
    [
        ("resnet18", 5), ("mobilenet_v2", 19), ("efficientnet_b0", 9), ("densenet121", 8), ("regnet_y_400mf", 5), ("vanilla", 3),
        ("timm:mobilenetv1_100", 6), ("efficientnet_lite0", 9), ("nasnet_mobile", 17),
    ],
)  # fmt: skip
def test_every_weight_is_in_one_block(name: str, count: int) -> None:
    backbone = build(name, 4).backbone
    found = [id(p) for modules in blocks(backbone) for module in modules for p in module.parameters()]
    assert sorted(found) == sorted(id(p) for p in backbone.parameters())
    assert len(blocks(backbone)) == count


def test_a_lone_norm_belongs_to_the_block_before_it() -> None:
    backbone = build("resnet18", 4).backbone
    assert [module for modules in blocks(backbone)[:1] for module in modules] == [backbone.conv1, backbone.bn1]
    assert blocks(backbone)[-1] == [backbone.layer4]


def test_depths_rise_towards_the_input() -> None:
    backbone = build("resnet18", 4).backbone
    found = depths(backbone)
    assert found[backbone.layer4[0].conv1.weight] == 1
    assert found[backbone.layer1[0].conv1.weight] == 4
    assert found[backbone.conv1.weight] == 5
    assert found.keys() == set(backbone.parameters())


def test_tokens_and_positions_count_as_the_first_block() -> None:
    backbone = build("vit_b_16", 4).backbone
    found = depths(backbone)
    assert found[backbone.class_token] == max(found.values()) == len(blocks(backbone)) == 13


@pytest.mark.parametrize("trainable", [0, 1, 2, 99, "all"])
def test_only_the_last_blocks_are_trained(trainable: int | str) -> None:
    network = build(BACKBONE, 4)
    parts = blocks(network.backbone)
    network.freeze(trainable)
    network.train()
    count = len(parts) if trainable == "all" else min(trainable, len(parts))
    learning = [all(p.requires_grad for module in modules for p in module.parameters()) for modules in parts]
    assert learning == [False] * (len(parts) - count) + [True] * count
    assert [all(module.training for module in modules) for modules in parts] == learning
    assert network.head.weight.requires_grad
    network.eval()
    assert not any(module.training for module in network.modules())


def test_frozen_blocks_keep_no_state_for_gradients() -> None:
    network = build(BACKBONE, 4)
    network.freeze(0)
    assert network.backbone(torch.rand(2, 3, 32, 32)).grad_fn is None


def test_drop_path_rises_to_its_rate() -> None:
    network = build("efficientnet_b0", 4)
    set_drop_path(network.backbone, 0.3, "efficientnet_b0")
    rates = [module.p for module in network.modules() if type(module).__name__ == "StochasticDepth"]
    assert rates[0] == 0
    assert rates[-1] == 0.3
    assert rates == sorted(rates)


def test_drop_path_without_branches_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"stage1\.drop_path: mobilenet_v2 has no branches to skip"):
        set_drop_path(build("mobilenet_v2", 4).backbone, 0.1, "mobilenet_v2")
