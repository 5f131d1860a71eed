from pathlib import Path

import numpy as np
import pytest
import torch

from catalog.artifacts import sha256_file
from catalog.errors import ArtifactError
from catalog.images import decode
from catalog.store.reader import Store
from stage1_cnn import checkpoint
from stage1_cnn.config import Stage1Config
from stage1_cnn.networks.backbones import Network, build
from stage1_cnn.predict import Predictor
from stage1_cnn.transforms import EvalTransform, Normaliser


@pytest.fixture
def network(config: Stage1Config) -> Network:
    return build(config.backbone, 4, weights=config.weights, seed=1).eval()


@pytest.fixture
def path(network: Network, config: Stage1Config, store: Store, tmp_path: Path) -> Path:
    """A checkpoint of an untrained network."""
    path = tmp_path / "run" / "stage1" / "best.pt"
    transform = EvalTransform.from_config(config)
    checkpoint.save(
        path,
        {
            "made_from": {"a": 1},
            "config": config.model_dump(mode="json"),
            "transform": transform.to_json(),
            "taxonomy": store.taxonomy.to_json(),
            "network": network.state_dict(),
            "epoch": 1,
            "phase": "head",
            "metrics": {},
            "train_images": torch.tensor([5, 6, 7, 8]),
        },
    )
    return path


def test_it_carries_all_that_scoring_needs(
    path: Path, network: Network, config: Stage1Config, store: Store
) -> None:
    predictor = Predictor.open(path, device="cpu")
    assert predictor.taxonomy.category_ids.tolist() == store.taxonomy.category_ids.tolist()
    assert predictor.transform == EvalTransform.from_config(config)
    assert predictor.train_images.tolist() == [5, 6, 7, 8]
    assert predictor.fingerprint == sha256_file(path)
    assert np.array_equal(predictor.head.weight, network.head.weight.detach().numpy())
    assert predictor.width == network.head.in_features


def test_features_are_those_of_the_network_in_evaluation_mode(
    path: Path, network: Network, store: Store
) -> None:
    predictor = Predictor.open(path, device="cpu", precision="fp32")
    pixels = predictor.transform(
        [decode(data) for data in store.read(store.images("train").image_id[:6])]
    )
    features = predictor.features(pixels)
    assert features.dtype == np.float16
    with torch.inference_mode():
        expected = network.features(
            Normaliser(predictor.transform, torch.device("cpu"))(pixels)
        ).numpy()
    np.testing.assert_allclose(features, expected, rtol=2e-3, atol=2e-3)
    assert np.array_equal(features, predictor.features(pixels))
    assert not np.array_equal(features[0], features[1])


def test_bf16_differs_by_rounding_only(path: Path, store: Store) -> None:
    exact, rounded = (
        Predictor.open(path, device="cpu", precision=precision) for precision in ("fp32", "bf16")
    )
    pixels = exact.transform(
        [decode(data) for data in store.read(store.images("train").image_id[:4])]
    )
    one, other = (predictor.features(pixels).astype(np.float32) for predictor in (exact, rounded))
    assert rounded.compute.precision == "bf16"
    assert not np.array_equal(one, other)
    assert all(np.corrcoef(a, b)[0, 1] > 0.97 for a, b in zip(one, other, strict=True))


def test_weights_of_another_network_are_refused(path: Path) -> None:
    content = checkpoint.load(path)
    content["network"] = build("resnet18", 4).state_dict()
    checkpoint.save(path, content)
    with pytest.raises(ArtifactError, match=r"do not fit its network .*step stage1"):
        Predictor.open(path, device="cpu")
