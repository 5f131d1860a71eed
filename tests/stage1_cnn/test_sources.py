from pathlib import Path

import numpy as np
import pytest
import torch

from catalog.store import Store
from stage1_cnn.backbones import Network, build
from stage1_cnn.config import Stage1Config
from stage1_cnn.dataset import Blobs
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
    network.freeze(True)
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
    for pairs in (list(source.training(order, 1)), list(cached.training(order, 1))):
        assert [len(found) for _, found in pairs] == [16, 4]
        assert np.array_equal(torch.cat([found for _, found in pairs]), labels)
    features = torch.cat([inputs for inputs, _ in cached.training(order, 1)])
    assert np.array_equal(features, cached.train.features[order].astype(np.float32))


def test_unreadable_images_are_left_out_and_counted(
    store: Store, config: Stage1Config, frozen: Network, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = store.images("train").image_id[[0, 5]]
    source = photos(store, config, Cut(store, damaged))
    for _ in range(2):
        pairs = list(source.training(np.arange(20), 1))
    assert [len(labels) for _, labels in pairs] == [14, 4]
    assert source.unreadable == set(damaged.tolist())
    assert caplog.text.count("left out") == 2, "once an image"
    cached = cache(source, frozen, tmp_path)
    assert len(cached) == len(source) - 2
    labels = torch.cat([found for _, found in cached.training(np.arange(len(cached)), 1)])
    assert np.array_equal(labels, np.delete(store.images("train").class_index, [0, 5]))
