import numpy as np
import pytest

from stage1_cnn.config import Stage1Config
from stage1_cnn.sampler import Sampler

SIZES = [50, 3, 0, 20, 7]
LABELS = np.repeat(np.arange(len(SIZES)), SIZES)


def sampler(**options: object) -> Sampler:
    disk = np.random.default_rng(1).permutation(len(LABELS)) * 10
    return Sampler(LABELS, disk, Stage1Config(**options))


def order(seed: int = 0, **options: object) -> np.ndarray:
    return sampler(**options).order(np.random.default_rng(seed))


def test_natural_is_every_photo_once() -> None:
    assert np.array_equal(np.sort(order()), np.arange(80))
    assert np.array_equal(order(), np.random.default_rng(0).permutation(80))
    assert len(sampler()) == 80


def test_balanced_shows_every_category_as_often() -> None:
    places = order(sampling="balanced")
    assert len(places) == len(sampler(sampling="balanced")) == 80
    assert np.bincount(LABELS[places % 80], minlength=5).tolist() == [20, 20, 0, 20, 20]


def test_levelled_brings_small_categories_up_to_the_98th_percentile() -> None:
    level = int(np.ceil(np.percentile([50, 3, 20, 7], 98)))
    places = order(sampling="levelled")
    assert np.bincount(LABELS[places % 80], minlength=5).tolist() == [50, level, 0, level, level]


@pytest.mark.parametrize("sampling", ["balanced", "levelled"])
def test_repeats_are_numbered_and_even(sampling: str) -> None:
    places = order(sampling=sampling)
    assert len(np.unique(places)) == len(places), "one repeat of a row is drawn once"
    rows, repeats = places % 80, places // 80
    small = LABELS[rows] == 1
    counts = np.bincount(rows[small], minlength=80)[50:53]
    assert counts.max() - counts.min() <= 1
    for row in np.unique(rows):
        assert sorted(repeats[rows == row]) == list(range((rows == row).sum()))


def test_seeds_differ() -> None:
    assert not np.array_equal(order(0, sampling="balanced"), order(1, sampling="balanced"))


def test_blocks_are_read_together() -> None:
    labels = np.zeros(100_000, dtype=np.int64)
    disk = np.random.default_rng(1).permutation(len(labels))
    found = Sampler(labels, disk, Stage1Config(shuffle_block=100)).order(np.random.default_rng(0))
    assert np.array_equal(np.sort(found), np.arange(100_000))
    window = 64 * 100
    for start in range(0, 100_000, window):
        assert len(np.unique(disk[found[start : start + window]] // 100)) <= 64
    first = disk[found[:window]]
    assert np.abs(np.corrcoef(first, np.arange(window))[0, 1]) < 0.1, (
        "within a window the order is random"
    )
    assert first.max() - first.min() > 50_000, "blocks come from everywhere"


def test_blocks_with_repeats() -> None:
    places = order(sampling="levelled", shuffle_block=4)
    assert np.array_equal(np.sort(places), np.sort(order(sampling="levelled")))


def test_a_million_rows_are_quick_arrays() -> None:
    labels = np.random.default_rng(0).integers(0, 5000, 1_000_000)
    places = Sampler(labels, np.arange(1_000_000), Stage1Config(sampling="levelled")).order(
        np.random.default_rng(0)
    )
    assert places.dtype == np.int64
    assert np.ptp(np.bincount(labels[places % 1_000_000])) < 100
