import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from catalog.errors import ArtifactError
from catalog.images import decode
from catalog.store.reader import Store
from stage1_cnn.config import Augment, Stage1Config
from stage1_cnn.dataset import Transform, batches, decode_all, load
from stage1_cnn.transforms import EvalTransform, TrainTransform
from tests.stage1_cnn.conftest import Cut

TRANSFORM = EvalTransform.from_config(Stage1Config(image_size=32))
OWN = EvalTransform.from_config(Stage1Config(image_size=(24, 28)))
"""The photos' own size."""


def test_rows_pixels_and_labels_belong_together(store: Store) -> None:
    table = store.images("train")
    order = np.random.default_rng(0).permutation(len(table))[:21]
    found = list(batches(store, table, TRANSFORM, batch_size=8, order=order))
    assert [len(batch) for batch in found] == [8, 8, 5]
    assert np.array_equal(np.concatenate([batch.rows for batch in found]), order)
    assert np.array_equal(
        np.concatenate([batch.labels for batch in found]), table.class_index[order]
    )
    single = TRANSFORM([decode(store.read(table.image_id[order[9:10]])[0])])
    assert torch.equal(found[1].pixels[1:2], single)
    assert all(batch.readable.all() and not batch.reasons for batch in found)


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(store: Store, workers: int) -> None:
    table = store.images("train")
    alone = list(batches(store, table, TRANSFORM, batch_size=8))
    threaded = list(batches(store, table, TRANSFORM, batch_size=8, workers=workers))
    assert len(alone) == len(threaded) == -(-len(table) // 8)
    for one, other in zip(alone, threaded, strict=True):
        assert np.array_equal(one.rows, other.rows)
        assert torch.equal(one.pixels, other.pixels)
        assert torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_keep_their_rows(store: Store, workers: int) -> None:
    table = store.images("train")
    source = Cut(store, table.image_id[[2, 10]])
    found = list(batches(source, table, TRANSFORM, batch_size=8, workers=workers))
    whole = np.concatenate([batch.readable for batch in found])
    assert np.flatnonzero(~whole).tolist() == [2, 10]
    assert sorted(found[0].reasons) == [2]
    assert found[1].reasons.keys() == {10}
    assert "not_an_image" in found[0].reasons[2]
    assert not found[0].pixels[2].any()
    intact = list(batches(store, table, TRANSFORM, batch_size=8))
    assert torch.equal(found[0].pixels[whole[:8]], intact[0].pixels[whole[:8]])
    assert np.concatenate([batch.rows for batch in found]).tolist() == list(range(len(table)))


MIRRORED, CROPPED = (
    TrainTransform(OWN, augment, 0, 1, levelled=True)
    for augment in (Augment(crop=1, stretch=1), Augment())
)


@pytest.mark.parametrize("transform", [OWN, MIRRORED, CROPPED])
def test_photos_of_the_batchs_size_are_decoded_into_it_and_stay_the_same(
    store: Store, transform: Transform
) -> None:
    table = store.images("train")
    source = Cut(store, table.image_id[[0, 7]], kept=700)
    rows = np.repeat(np.arange(12), 5)
    repeats = np.tile(np.arange(5), 12)
    batch = load(source, table, rows + repeats * len(table), transform)
    photos, readable, errors = decode_all(source.read(table.image_id[rows]))
    assert {error.reason for error in errors.values()} == {"undecodable"} and len(errors) == 10
    expected = transform(photos, table.image_id[rows][readable], repeats[readable])
    assert torch.equal(batch.pixels[torch.from_numpy(readable)], expected)
    assert not batch.pixels[torch.from_numpy(~readable)].any()
    out = OWN.empty_batch(len(rows))
    placed, _, _ = decode_all(source.read(table.image_id[rows]), out)
    assert all(np.shares_memory(photo, row) for photo, row in zip(placed, out, strict=False))


def test_a_transform_that_asks_for_it_gets_photos_scaled_by_the_decoder(store: Store) -> None:
    table = store.images("train")
    blobs = store.read(table.image_id)
    height, width = decode(blobs[0]).shape[:2]
    small = EvalTransform(height // 2, width // 2, (0.5,) * 3, (0.5,) * 3)
    scaled = replace(small, least=(height // 2, width // 2))
    batch = load(store, table, np.arange(len(table)), scaled)
    expected = scaled([decode(blob, least=scaled.least) for blob in blobs])
    assert torch.equal(batch.pixels, expected)
    whole = load(store, table, np.arange(len(table)), small).pixels
    apart = (batch.pixels.int() - whole.int()).abs().float()
    assert 0 < apart.mean() < 8 and not torch.equal(batch.pixels, whole)


def test_a_batch_without_any_readable_image(store: Store) -> None:
    table = store.images("train")[:3]
    batch = next(batches(Cut(store, table.image_id), table, TRANSFORM, batch_size=8))
    assert batch.pixels.shape == (3, 3, 32, 32)
    assert not batch.readable.any()


def test_a_missing_image_is_an_error(store: Store) -> None:
    table = store.images("train")
    table.image_id[3] = 2**60
    with pytest.raises(ArtifactError, match=str(2**60)):
        list(batches(store, table, TRANSFORM, batch_size=8, workers=1))


def test_closing_stops_the_threads_and_batches_in_flight_are_bounded(store: Store) -> None:
    table, read = store.images("train"), []

    class Counting:
        def read(self, image_ids: np.ndarray) -> list[bytes]:
            read.append(len(image_ids))
            return store.read(image_ids)

    before = threading.active_count()
    loader = batches(Counting(), table, TRANSFORM, batch_size=4, workers=2)
    next(loader)
    loader.close()
    assert threading.active_count() == before
    assert len(read) <= 5


def test_threads_that_decode_start_no_teams_and_leave_the_others_theirs(store: Store) -> None:
    table, seen, before = store.images("train"), [], torch.get_num_threads()

    class Looking:
        def read(self, image_ids: np.ndarray) -> list[bytes]:
            seen.append(torch.get_num_threads())
            return store.read(image_ids)

    try:
        torch.set_num_threads(3)
        for _ in batches(Looking(), table, TRANSFORM, batch_size=8, workers=2):
            assert torch.get_num_threads() == 3
        later = ThreadPoolExecutor(1).submit(torch.get_num_threads).result()
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1} and later == 3
