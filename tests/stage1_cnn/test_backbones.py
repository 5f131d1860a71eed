from itertools import product
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

from catalog.errors import ConfigError
from stage1_cnn.architectures import check_name
from stage1_cnn.backbones import build, check_size, synchronised
from stage1_cnn.networks.nasnet import SameAverage
from tests.stage1_cnn.conftest import BACKBONE
from tests.stage1_cnn.narrow import DINOV2, DINOV3, SIGLIP2

CLASSES = 7
WIDTHS = [
    ("resnet18", 512, 32),
    pytest.param("resnet50", 2048, 32, marks=pytest.mark.slow),
    ("mobilenet_v2", 1280, 32),
    ("efficientnet_b0", 1280, 32),
    ("densenet121", 1024, 32),
    pytest.param("alexnet", 4096, 64, marks=pytest.mark.slow),
    pytest.param("convnext_tiny", 768, 32, marks=pytest.mark.slow),
    pytest.param("vgg16", 4096, 32, marks=pytest.mark.slow),
    ("vanilla", 2048, 27),
    ("efficientnet_lite0", 1280, 32),
    pytest.param("efficientnet_lite1", 1280, 32, marks=pytest.mark.slow),
    pytest.param("efficientnet_lite2", 1280, 32, marks=pytest.mark.slow),
    ("nasnet_mobile", 1056, 32),
    ("timm:mobilenetv1_100", 1024, 32),
    pytest.param("timm:nasnetalarge", 4032, 64, marks=pytest.mark.slow),
    (f"timm:{DINOV2}", 48, 42),
    (f"timm:{DINOV3}", 48, 48),
    (f"timm:{SIGLIP2}", 48, 48),
]


@pytest.mark.parametrize("name, width, side", WIDTHS)
def test_every_backbone_keeps_the_contract(name: str, width: int, side: int) -> None:
    network = build(name, CLASSES, seed=3)
    assert (network.head.in_features, network.head.out_features) == (width, CLASSES)
    images = torch.rand(2, 3, side, side)
    network.freeze(0)
    network.train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    logits = network(images)
    logits.sum().backward()
    assert logits.shape == (2, CLASSES)
    assert all(parameter.grad is None for parameter in network.backbone.parameters())
    assert network.head.weight.grad.abs().sum() > 0
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items()), "batch norm moved"
    assert torch.equal(network.head(network.features(images)), network(images)), "something dropped out"
    network.freeze("all")
    network(images).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    moved = any(not torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert moved == any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(
    "name", ["resnet18", "efficientnet_lite0", "timm:mobilenetv1_100", "timm:efficientnet_b0", "timm:regnety_002"]
)
def test_synchronised_batch_norm_is_the_same_network(name: str) -> None:
    network, images = build(name, CLASSES, seed=3).eval(), torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        before, keys = network.features(images), list(network.state_dict())
        network = synchronised(network)
        assert torch.equal(network.features(images), before)
    assert list(network.state_dict()) == keys
    assert not any(type(module) is nn.BatchNorm2d for module in network.modules())
    assert any(isinstance(module, nn.SyncBatchNorm) for module in network.modules())


def test_the_seed_alone_decides_and_nothing_is_reseeded() -> None:
    torch.default_generator.manual_seed(5)
    expected = torch.rand(1)
    torch.default_generator.manual_seed(5)
    one, other = build(BACKBONE, CLASSES, seed=1), build(BACKBONE, CLASSES, seed=1)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert not torch.equal(one.head.weight, build(BACKBONE, CLASSES, seed=2).head.weight)


def test_features_are_those_of_torchvision(weights_file: Path) -> None:
    reference = torchvision.models.get_model(BACKBONE, num_classes=5).eval()
    reference.load_state_dict(torch.load(weights_file, weights_only=True))
    network = build(BACKBONE, CLASSES, weights=str(weights_file)).eval()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(reference.classifier[-1](network.features(images)), reference(images))


@pytest.mark.parametrize(
    "name, reason",
    [
        ("resnet19", "unknown.*resnet18"), ("fcn_resnet50", "unknown"), ("inception_v3", "auxiliary classifiers"),
        ("squeezenet1_0", "expected a linear layer"), ("vanila", "unknown.*vanilla"),
    ],
)  # fmt: skip
def test_networks_without_a_linear_head_are_refused(name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        build(name, CLASSES)


@pytest.mark.parametrize(
    "name, narrow, wide",
    [
        ("vanilla", 512, 2048), ("mobilenet_v2", 1280, 1280), pytest.param("vgg16", 1024, 4096, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_width_scales_the_filters(name: str, narrow: int, wide: int) -> None:
    small, full = build(name, CLASSES, width=0.25), build(name, CLASSES)
    assert (small.head.in_features, full.head.in_features) == (narrow, wide)
    assert sum(p.numel() for p in small.parameters()) < 0.4 * sum(p.numel() for p in full.parameters())
    assert small.eval()(torch.rand(1, 3, 32, 32)).shape == (1, CLASSES)


@pytest.mark.slow
def test_vgg16_is_that_of_torchvision() -> None:
    ours, theirs = build("vgg16", CLASSES).backbone.state_dict(), torchvision.models.vgg16().state_dict()
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in theirs.items() if not key.startswith("classifier.6")
    }


def test_networks_of_one_width_refuse_another() -> None:
    with pytest.raises(ConfigError, match=r"stage1\.width: resnet18 comes in one width; expected 1, or one of .*vanilla"):
        build("resnet18", CLASSES, width=0.5)


def test_timm_networks_are_theirs_and_unknown_ones_are_named(tmp_path: Path) -> None:
    theirs = timm.create_model("mobilenetv1_100", num_classes=5).eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    network = build("timm:mobilenetv1_100", CLASSES, weights=str(tmp_path / "weights.pth")).eval()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(theirs.classifier(network.features(images)), theirs(images))
    with pytest.raises(ConfigError, match=r"timm has no network 'mobilenetv1_10'.* mobilenetv1_100"):
        build("timm:mobilenetv1_10", CLASSES)
    with pytest.raises(ConfigError, match=r"timm has no weights 'mobilenetv1_100\.x'; .* mobilenetv1_100\.ra4_e3600_r224_in1k"):
        build("timm:mobilenetv1_100.x", CLASSES)


def test_a_known_name_is_returned() -> None:
    assert check_name("resnet50") == "resnet50"


def test_nasnet_mobile_is_the_published_network() -> None:
    """Its number of weights, and who sees whom. Compared once with the code of the package
    pretrainedmodels, same weights: no bit of the features differs."""
    backbone = build("nasnet_mobile", 1000).eval().backbone
    assert sum(p.numel() for p in backbone.parameters()) + 1057 * 1000 == 5_289_978
    seen = {}
    for name, module in backbone.named_children():
        module.register_forward_hook(lambda module, inputs, out, name=name: seen.update({name: (inputs, out)}))
    backbone(torch.rand(1, 3, 64, 64))
    assert [name for name in seen if name.startswith("cell_")] == [
        "cell_stem_0", "cell_stem_1", *(f"cell_{first + number}" for first in (0, 6, 12) for number in range(4)),
    ]  # fmt: skip
    for name, earlier in (("cell_6", "cell_3"), ("cell_12", "cell_9"), ("cell_7", "reduction_cell_0"), ("cell_15", "cell_13")):
        assert seen[name][0][1] is seen[earlier][1], f"{name} sees {earlier}"


@pytest.mark.parametrize("height, width", [(7, 7), (8, 8), (7, 10)])
def test_same_averages_count_what_lies_in_the_image(height: int, width: int) -> None:
    image = torch.rand(1, 2, height, width)
    found = SameAverage()(image)
    assert found.shape[2:] == (-(-height // 2), -(-width // 2))
    top, left = -(height % 2), -(width % 2)  # TensorFlow's SAME pads the far side first
    for row, column in product(range(found.shape[2]), range(found.shape[3])):
        rows = slice(max(0, top + 2 * row), top + 2 * row + 3)
        columns = slice(max(0, left + 2 * column), left + 2 * column + 3)
        torch.testing.assert_close(found[..., row, column], image[..., rows, columns].mean((2, 3)))


def test_too_small_images_are_refused_before_training() -> None:
    network = build("densenet121", CLASSES).train()
    with pytest.raises(ConfigError, match="densenet121 can't take 8 x 16 pixels"):
        check_size(network, "densenet121", (8, 16))
    assert network.training
