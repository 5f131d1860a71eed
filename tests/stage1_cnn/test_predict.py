from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from catalog.artifacts import sha256_file
from catalog.errors import ArtifactError
from catalog.images import decode
from catalog.store.reader import Store
from stage1_cnn import checkpoint
from stage1_cnn.config import Stage1Config
from stage1_cnn.networks.backbones import Network, build
from stage1_cnn.onnx import FromPixels
from stage1_cnn.predict import Predictor
from stage1_cnn.training.setup import TrainingJob
from stage1_cnn.training.trainer import train_stage1
from stage1_cnn.transforms import EvalTransform, Normaliser
from tests.stage1_cnn.narrow import DINOV2


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


def test_a_mean_image_is_subtracted_in_evaluation_and_export_alike(
    store: Store, config: Stage1Config, tmp_path: Path
) -> None:
    config = config.model_copy(
        update={"normalisation": "mean_image", "head_epochs": 1, "epochs": 0}
    )
    train_stage1(TrainingJob(store, config, tmp_path, {}))
    predictor = Predictor.open(tmp_path / "best.pt", device="cpu", precision="fp32")
    assert predictor.transform.mean_image.shape == (3, 32, 32)
    pixels = predictor.transform(
        [decode(data) for data in store.read(store.images("train").image_id[:6])]
    )
    with torch.inference_mode():
        exported = FromPixels(predictor).eval()(pixels.permute(0, 2, 3, 1)).numpy()
    np.testing.assert_allclose(predictor.features(pixels), exported, rtol=2e-3, atol=2e-3)
    plain = Predictor.open(tmp_path / "best.pt", device="cpu", precision="fp32")
    plain.transform.mean_image.zero_()
    assert np.abs(plain.features(pixels) - exported).max() > 0.01, "it matters"


def test_a_frozen_vision_transformer_from_a_file(
    store: Store, config: Stage1Config, tmp_path: Path
) -> None:
    """A view as `{backbone: timm:NAME, weights: model.safetensors, image_size: auto, epochs: 0}`
    has it."""
    theirs = timm.create_model(DINOV2).eval()
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    network = {
        "backbone": f"timm:{DINOV2}",
        "weights": str(tmp_path / "model.safetensors"),
        "image_size": "auto",
    }
    train_stage1(
        TrainingJob(
            store, config.model_copy(update=network | {"head_epochs": 1, "epochs": 0}), tmp_path, {}
        )
    )
    predictor = Predictor.open(tmp_path / "best.pt", device="cpu", precision="fp32")
    pixels = predictor.transform(
        [decode(data) for data in store.read(store.images("train").image_id[:6])]
    )
    assert pixels.shape == (6, 3, 70, 70)
    mean, std = (
        torch.tensor(values).view(3, 1, 1)
        for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    with torch.inference_mode():
        expected = theirs((pixels / 255 - mean) / std).numpy()
    np.testing.assert_allclose(predictor.features(pixels), expected, rtol=2e-3, atol=2e-3)


def test_weights_of_another_network_are_refused(path: Path) -> None:
    content = checkpoint.load(path)
    content["network"] = build("resnet18", 4).state_dict()
    checkpoint.save(path, content)
    with pytest.raises(ArtifactError, match=r"do not fit its network .*step stage1"):
        Predictor.open(path, device="cpu")
