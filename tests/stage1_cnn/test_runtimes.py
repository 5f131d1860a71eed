"""The runtimes compute the same function as PyTorch, in any number of lanes, and are measured."""

from pathlib import Path

import numpy as np
import pytest
import torch

from catalog.errors import ConfigError
from catalog.taxonomy import Taxonomy
from stage1_cnn import checkpoint
from stage1_cnn.config import Stage1Config
from stage1_cnn.device import inference_compute, ordered
from stage1_cnn.networks.backbones import build
from stage1_cnn.onnx import keep_onnx, read_onnx
from stage1_cnn.predict import Predictor
from stage1_cnn.runtimes import (
    BATCH,
    answering,
    candidates,
    measure,
    open_predictor,
    require_usable,
)
from stage1_cnn.transforms import EvalTransform

FP32 = inference_compute("cpu", "fp32")
OTHERS = ("onnx", "openvino")


def write_checkpoint(path: Path, seed: int = 0) -> Path:
    config = Stage1Config(backbone="resnet18", weights="none", image_size=32)
    content = {key: {} for key in checkpoint.KEYS} | {
        "config": config.model_dump(mode="json"),
        "transform": EvalTransform.from_config(config).to_json(),
        "taxonomy": Taxonomy.from_ids(range(4)).to_json(),
        "network": build(config.backbone, 4, seed=seed).state_dict(),
        "train_images": torch.ones(4, dtype=torch.int64),
    }
    checkpoint.save(path, content)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights, with its network kept beside it."""
    made = write_checkpoint(tmp_path_factory.mktemp("runtimes") / "best.pt")
    keep_onnx(Predictor.open(made, device="cpu", precision="fp32"), made)
    return made


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    """A batch of noise, as a transform gives it; more than other runtimes compute at once."""
    noise = torch.randint(256, (BATCH + 3, 3, 32, 32), dtype=torch.uint8)
    return noise.contiguous(memory_format=torch.channels_last)


@pytest.fixture(params=OTHERS)
def other(request: pytest.FixtureRequest, path: Path) -> Predictor:
    if request.param not in candidates(FP32):
        pytest.skip(f"{request.param} is not installed")
    return open_predictor(request.param, path, device="cpu", precision="fp32")


def test_they_agree_with_pytorch(other: Predictor, path: Path, pixels: torch.Tensor) -> None:
    expected = Predictor.open(path, device="cpu", precision="fp32").features(pixels)
    assert np.abs(expected.astype(float)).max() > 0.1
    for number in (BATCH + 3, BATCH, 1):
        np.testing.assert_allclose(
            other.features(pixels[:number]).astype(float), expected[:number], rtol=2e-3, atol=1e-3
        )
    assert other.computed_with == {"device": "cpu", "precision": "fp32", "runtime": other.runtime}


def test_lanes_change_no_bit(other: Predictor, pixels: torch.Tensor) -> None:
    expected = other.features(pixels)
    for features in ordered(other.features, [pixels] * 12, 3):
        np.testing.assert_array_equal(features, expected)


def test_bf16_by_openvino(path: Path, pixels: torch.Tensor) -> None:
    pytest.importorskip("openvino")
    if not torch.cpu._is_avx512_bf16_supported():
        with pytest.raises(ConfigError, match=r"bf16 where the processor does; set features\.pre"):
            open_predictor("openvino", path, device="cpu", precision="bf16")
        return
    found, exact = (
        open_predictor("openvino", path, device="cpu", precision=precision).features(pixels)
        for precision in ("bf16", "fp32")
    )
    np.testing.assert_allclose(found.astype(float), exact, rtol=0.1, atol=0.1)
    assert (found != exact).any()


def test_what_a_runtime_cannot_do() -> None:
    bf16 = inference_compute("cpu", "bf16")
    with pytest.raises(
        ConfigError,
        match=r"onnx: computes in fp32 or int8, the precision asked for is bf16.* runtime to torch",
    ):
        require_usable("onnx", bf16)
    assert "onnx" not in candidates(bf16) and candidates(bf16)[0] == "torch"
    assert answering("auto", "onnx", "cpu", "bf16") == "torch"
    assert answering("openvino", "onnx", "cpu", "bf16") == "openvino"
    assert answering("auto", None, "cpu", "fp32") == "torch"
    with pytest.raises(
        ConfigError, match=r"torch: computes in fp32 .* is int8; .* runtime to onnx"
    ):
        require_usable("torch", inference_compute("cpu", "int8"))
    assert answering("auto", "torch", "cpu", "int8") == "onnx"
    assert answering("auto", "onnx", "cpu", "fp32") == (
        "onnx" if "onnx" in candidates(FP32) else "torch"
    )


def test_every_usable_runtime_is_measured(path: Path) -> None:
    rates = measure(path, FP32)
    assert list(rates) == candidates(FP32) and min(rates.values()) > 0


def test_a_kept_network_is_read_only_if_it_is_the_checkpoints(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    path = write_checkpoint(tmp_path / "best.pt")
    predictor = Predictor.open(path, device="cpu", precision="fp32")
    keep_onnx(predictor, path)
    kept = tmp_path / "network.onnx"
    content, written = kept.read_bytes(), kept.stat().st_mtime_ns
    assert read_onnx(predictor, path) == content
    keep_onnx(predictor, path)
    assert kept.stat().st_mtime_ns == written  # it was current
    kept.write_bytes(content[:-1])
    assert len(read_onnx(predictor, path)) == len(content)  # exported again
    kept.write_bytes(content)
    other = Predictor.open(write_checkpoint(path, seed=1), device="cpu", precision="fp32")
    assert read_onnx(other, path) != content
