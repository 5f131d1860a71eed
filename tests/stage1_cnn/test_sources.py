from pathlib import Path

import numpy as np
import pytest
import torch

from catalog.store import Store
from stage1_cnn.backbones import Network, build
from stage1_cnn.config import Stage1Config
from stage1_cnn.dataset import Blobs, in_parts
from stage1_cnn.device import choose_engine
from stage1_cnn.sources import CachedFeatures, Photos
from stage1_cnn.train import evaluate
from tests.stage1_cnn.conftest import Cut

ENGINE = choose_engine("cpu", "fp32")


def photos(store: Store, config: Stage1Config, source: Blobs | None = None) -> Photos:
    return Photos(source or store, store.images("train"), store.images("val_a"), config, ENGINE)


@pytest.fixture
def frozen(config: Stage1Config) -> Network:
    network = build(config.backbone, 4, weights=config.weights).to(memory_format=torch.channels_last)
    network.freeze(0)
    return network


def cache(source: Photos, network: Network, folder: Path) -> CachedFeatures:
    return CachedFeatures(source, network, folder, lambda: None)


def test_cached_features_are_those_of_the_frozen_network(
    store: Store, config: Stage1Config, frozen: Network, tmp_path: Path
) -> None:
    source = photos(store, config)
    cached = cache(source, frozen, tmp_path)
    plain, fast = evaluate(frozen, source.validation(), ENGINE), evaluate(frozen.head, cached.validation(), ENGINE)
    assert fast.loss == pytest.approx(plain.loss, rel=1e-3)
    assert (fast.top1, fast.images) == (plain.top1, plain.images)


def test_beyond_the_budget_the_cache_is_a_file_without_a_name(
    store: Store, config: Stage1Config, frozen: Network, tmp_path: Path
) -> None:
    in_memory = cache(photos(store, config), frozen, tmp_path)
    on_disk = cache(photos(store, config.model_copy(update={"cache_gb": 0})), frozen, tmp_path)
    assert isinstance(on_disk.train.features, np.memmap)
    assert not isinstance(in_memory.train.features, np.memmap)
    assert np.array_equal(in_memory.train.features, on_disk.train.features)
    assert not list(tmp_path.iterdir())


def test_pairs_follow_the_order(store: Store, config: Stage1Config, frozen: Network, tmp_path: Path) -> None:
    source = photos(store, config)
    cached = cache(source, frozen, tmp_path)
    order = np.random.default_rng(0).permutation(len(source))[:20]
    labels = store.images("train").class_index[order]
    for pairs in (list(source.training(in_parts(order, 16), 1)), list(cached.training(in_parts(order, 16), 1))):
        assert [len(found) for _, found in pairs] == [16, 4]
        assert np.array_equal(torch.cat([found for _, found in pairs]), labels)
    features = torch.cat([inputs for inputs, _ in cached.training(in_parts(order, 16), 1)])
    assert np.array_equal(features, cached.train.features[order].astype(np.float32))


def test_unreadable_images_are_left_out_and_counted(
    store: Store, config: Stage1Config, frozen: Network, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = store.images("train").image_id[[0, 5]]
    source = photos(store, config, Cut(store, damaged))
    for _ in range(2):
        pairs = list(source.training(in_parts(np.arange(20), 16), 1))
    assert [len(labels) for _, labels in pairs] == [14, 4]
    assert source.unreadable == set(damaged.tolist())
    assert caplog.text.count("left out") == 2, "once an image"
    cached = cache(source, frozen, tmp_path)
    assert len(cached) == len(source) - 2
    labels = torch.cat([found for _, found in cached.training([np.arange(len(cached))], 1)])
    assert np.array_equal(labels, np.delete(store.images("train").class_index, [0, 5]))


def test_train_mean_is_measured_on_the_training_photos(store: Store, config: Stage1Config) -> None:
    config = config.model_copy(update={"normalisation": "train_mean"})
    source = photos(store, config)
    pairs = source._pairs(source.train, source.transform, in_parts(np.arange(len(source)), 16))
    inputs = torch.cat([found for found, _ in pairs])
    torch.testing.assert_close(inputs.mean((0, 2, 3)), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(inputs.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)
    again = Photos(store, source.train, source.val, config, ENGINE, source.transform)
    assert again.transform is source.transform, "a resumed training keeps what it measured"


def test_the_mean_image_is_that_of_each_pixel(store: Store, config: Stage1Config) -> None:
    config = config.model_copy(update={"normalisation": "mean_image"})
    source = photos(store, config)
    pairs = source._pairs(source.train, source.transform, in_parts(np.arange(len(source)), 16))
    inputs = torch.cat([found for found, _ in pairs])
    torch.testing.assert_close(inputs.mean(0), torch.zeros(3, 32, 32), atol=1e-5, rtol=0)
    torch.testing.assert_close(inputs.square().mean((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)
    assert source.transform.mean_image.std() > 0.001, "more than a mean of each channel"


def test_training_photos_may_be_smaller(store: Store, config: Stage1Config) -> None:
    source = photos(store, config.model_copy(update={"train_size": 24}))
    assert next(source.training([np.arange(4)], 1))[0].shape == (4, 3, 24, 24)
    assert next(source.validation())[0].shape[2:] == (32, 32)


def test_repeats_come_augmented_and_cached_features_alike(
    store: Store, config: Stage1Config, frozen: Network, tmp_path: Path
) -> None:
    config = config.model_copy(update={"sampling": "levelled"})
    source = photos(store, config)
    cached = cache(source, frozen, tmp_path)
    places = np.array([3, 3 + len(source), 3 + 2 * len(source)])
    (inputs, labels), (features, same) = next(source.training([places], 1)), next(cached.training([places], 1))
    assert torch.equal(labels, same)
    assert len(labels.unique()) == 1
    assert not torch.equal(inputs[0], inputs[1])
    assert torch.equal(features[0], features[1])
