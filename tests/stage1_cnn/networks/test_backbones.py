import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from catalog.errors import ConfigError
from stage1_cnn.networks.architectures import check_name
from stage1_cnn.networks.backbones import build, check_size, synchronised
from tests.stage1_cnn.conftest import BACKBONE

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
    ("timm:mobilenetv1_100", 1024, 32),
    pytest.param("timm:nasnetalarge", 4032, 64, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("name, width, side", WIDTHS)
def test_every_backbone_keeps_the_contract(name: str, width: int, side: int) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm")
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
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items()), (
        "batch norm moved"
    )
    assert torch.equal(network.head(network.features(images)), network(images)), (
        "something dropped out"
    )
    network.freeze("all")
    network(images).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    moved = any(not torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert moved == any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(
    "name", ["resnet18", "timm:mobilenetv1_100", "timm:efficientnet_b0", "timm:regnety_002"]
)
def test_synchronised_batch_norm_is_the_same_network(name: str) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    network, images = build(name, CLASSES, seed=3).eval(), torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        before, keys = network.features(images), list(network.state_dict())
        network = synchronised(network, name)
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
    assert all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )
    assert not torch.equal(one.head.weight, build(BACKBONE, CLASSES, seed=2).head.weight)


def test_features_are_those_of_torchvision(weights_file: Path) -> None:
    reference = torchvision.models.get_model(BACKBONE, num_classes=5).eval()
    reference.load_state_dict(torch.load(weights_file, weights_only=True))
    network = build(BACKBONE, CLASSES, weights=str(weights_file)).eval()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(reference.classifier[-1](network.features(images)), reference(images))


def test_float16_weights_are_widened(weights_file: Path, tmp_path: Path) -> None:
    state = torch.load(weights_file, weights_only=True)
    half = {
        key: value.half() if value.is_floating_point() else value for key, value in state.items()
    }
    torch.save(half, tmp_path / "half.pth")
    network = build(BACKBONE, CLASSES, weights=str(tmp_path / "half.pth"))
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    key = next(iter(half))
    assert torch.equal(network.backbone.state_dict()[key], half[key].float())


def test_old_names_of_densenet_are_understood(tmp_path: Path) -> None:
    state = torchvision.models.densenet121(num_classes=2).state_dict()
    old = {
        key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): value
        for key, value in state.items()
    }
    assert old.keys() != state.keys()
    torch.save(old, tmp_path / "old.pth")
    network = build("densenet121", CLASSES, weights=str(tmp_path / "old.pth"))
    key = "features.denseblock1.denselayer1.norm1.weight"
    assert torch.equal(network.backbone.state_dict()[key], state[key])


def test_weights_of_another_network_name_the_keys(weights_file: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"weights\.pth does not fit resnet18: conv1\.weight is missing.* and \d+ more",
    ):
        build("resnet18", CLASSES, weights=str(weights_file))


def test_other_shapes_are_named(weights_file: Path, tmp_path: Path) -> None:
    state = torch.load(weights_file, weights_only=True)
    state["features.0.0.weight"] = torch.zeros(16, 1, 3, 3)
    torch.save(state, tmp_path / "gray.pth")
    with pytest.raises(
        ConfigError, match=r"features\.0\.0\.weight is \(16, 1, 3, 3\), expected \(16, 3, 3, 3\)$"
    ):
        build(BACKBONE, CLASSES, weights=str(tmp_path / "gray.pth"))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"weights\.pth does not load as plain tensors"):
        build(BACKBONE, CLASSES, weights=str(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file: .*missing\.pth"):
        build(BACKBONE, CLASSES, weights=str(tmp_path / "missing.pth"))


def test_a_failed_download_says_what_to_fetch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(
        ConfigError, match=r"fetch https://\S+/resnet18-\w+\.pth .*stage1\.weights=FILE"
    ):
        build("resnet18", CLASSES, weights="imagenet")


@pytest.mark.parametrize(
    "name, reason",
    [
        ("resnet19", "unknown.*resnet18"),
        ("fcn_resnet50", "unknown"),
        ("inception_v3", "auxiliary classifiers"),
        ("squeezenet1_0", "expected a linear layer"),
        ("vanila", "unknown.*vanilla"),
    ],
)
def test_networks_without_a_linear_head_are_refused(name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        build(name, CLASSES)


@pytest.mark.parametrize(
    "name, narrow, wide",
    [
        ("vanilla", 512, 2048),
        ("mobilenet_v2", 1280, 1280),
        pytest.param("vgg16", 1024, 4096, marks=pytest.mark.slow),
    ],
)
def test_width_scales_the_filters(name: str, narrow: int, wide: int) -> None:
    small, full = build(name, CLASSES, width=0.25), build(name, CLASSES)
    assert (small.head.in_features, full.head.in_features) == (narrow, wide)
    assert sum(p.numel() for p in small.parameters()) < 0.4 * sum(
        p.numel() for p in full.parameters()
    )
    assert small.eval()(torch.rand(1, 3, 32, 32)).shape == (1, CLASSES)


@pytest.mark.slow
def test_vgg16_is_that_of_torchvision() -> None:
    ours, theirs = (
        build("vgg16", CLASSES).backbone.state_dict(),
        torchvision.models.vgg16().state_dict(),
    )
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in theirs.items() if not key.startswith("classifier.6")
    }


def test_networks_of_one_width_refuse_another() -> None:
    with pytest.raises(
        ConfigError,
        match=r"stage1\.width: resnet18 comes in one width; expected 1, or one of .*vanilla",
    ):
        build("resnet18", CLASSES, width=0.5)


def test_without_timm_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError,
        match=r"needs the package timm; install it with: pip install 'shelfsort\[backbones\]'",
    ):
        build("timm:mobilenetv1_100", CLASSES)


def test_timm_networks_are_theirs_and_unknown_ones_are_named(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("mobilenetv1_100", num_classes=5).eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    network = build("timm:mobilenetv1_100", CLASSES, weights=str(tmp_path / "weights.pth")).eval()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(theirs.classifier(network.features(images)), theirs(images))
    with pytest.raises(
        ConfigError, match=r"timm has no network 'mobilenetv1_10'.* mobilenetv1_100"
    ):
        build("timm:mobilenetv1_10", CLASSES)


def test_a_known_name_is_returned() -> None:
    assert check_name("resnet50") == "resnet50"


def test_too_small_images_are_refused_before_training() -> None:
    network = build("densenet121", CLASSES).train()
    with pytest.raises(ConfigError, match="densenet121 can't take 8 x 16 pixels"):
        check_size(network, "densenet121", (8, 16))
    assert network.training
