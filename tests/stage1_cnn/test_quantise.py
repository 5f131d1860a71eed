"""A network in int8 computes about the same, in integers, and belongs to one checkpoint."""

from pathlib import Path

import numpy as np
import pytest

from catalog.errors import ArtifactError
from stage1_cnn.onnx import by_onnxruntime, export_onnx, keep_beside, read_beside
from stage1_cnn.predict import Predictor
from stage1_cnn.quantise import QUANTISED, quantise, read_quantised
from tests.stage1_cnn.test_runtimes import write_checkpoint

pytest.importorskip("onnxscript", reason="needs the extra export")
onnx = pytest.importorskip("onnx", reason="needs the extra export")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("quantise") / "best.pt")


@pytest.fixture(scope="module")
def predictor(path: Path) -> Predictor:
    return Predictor.open(path, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    """Smooth pictures, as noise is the same to every network."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (24, 4, 4, 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(8, axis=1).repeat(8, axis=2))


def operations(network: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(network).graph.node]


def error(predictor: Predictor, photos: np.ndarray, network: bytes) -> float:
    """Relative error of the features."""
    exact = by_onnxruntime(export_onnx(predictor))(photos)
    found = by_onnxruntime(network)(photos)
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def test_int8_is_near(predictor: Predictor, photos: np.ndarray) -> None:
    network, in_fp32 = quantise(predictor, [photos[:16], photos[16:]])
    assert operations(network).count("QuantizeLinear") > 10 and in_fp32 == 0
    assert 1e-6 < error(predictor, photos, network) < 0.1


def test_a_layer_that_8_bits_spoil_stays_in_fp32(path: Path, photos: np.ndarray) -> None:
    """One channel of an activation is made a thousand times as large, and its weights that much
    smaller: the same function, but 8 bits for all channels leave the others nothing."""
    predictor = Predictor.open(path, device="cpu", precision="fp32")
    block = predictor.network.backbone.get_submodule("layer1.0")
    block.bn1.weight[0] *= 1000
    block.bn1.bias[0] *= 1000
    block.conv2.weight[:, 0] /= 1000
    batches = [photos[:16], photos[16:]]
    spoilt, _ = quantise(predictor, batches)
    mended, in_fp32 = quantise(predictor, batches, keep=0.1)
    assert in_fp32 == 2
    assert error(predictor, photos, mended) < 0.1 < error(predictor, photos, spoilt)


def test_it_is_read_only_with_its_checkpoint(
    predictor: Predictor, path: Path, tmp_path: Path
) -> None:
    own = tmp_path / "best.pt"
    own.write_bytes(path.read_bytes())
    with pytest.raises(ArtifactError, match=r"int8\.onnx: no int8 network of this checkpoint"):
        read_quantised(predictor, own)
    keep_beside(own, QUANTISED, predictor.fingerprint, b"a network", {"lost": 0.001})
    assert read_quantised(predictor, own) == b"a network"
    assert read_beside(own, QUANTISED, "another") is None
    (tmp_path / "int8.onnx").write_bytes(b"a networ")
    with pytest.raises(ArtifactError, match="no int8 network of this checkpoint"):
        read_quantised(predictor, own)
