"""The index of similar images: nearly what brute force finds, and a file that knows what it was
made from."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import similar as benchmark
from catalog.errors import ArtifactError
from features.neighbours import unit
from features.scan import Scan
from features.similar import SHORTLIST, SimilarIndex, build
from features.store import FeatureStore
from tests.features.rows import MADE_FROM, Made


@pytest.fixture(scope="module")
def store(made: Made, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """A finished features.h5; every tenth image is unreadable."""
    path = tmp_path_factory.mktemp("similar") / "features.h5"
    made.write(path)
    return FeatureStore(path)


def test_the_shortlist_is_ranked_by_exact_cosines(
    made: Made, store: FeatureStore, tmp_path: Path
) -> None:
    build(tmp_path, store)
    index = SimilarIndex.open(tmp_path, store)
    queries = np.random.default_rng(1).normal(size=(20, made.features.shape[1]))
    rows, cosines = index.nearest(queries, shortlist=30)
    assert rows.shape == cosines.shape == (20, 30)
    exact = unit(queries) @ unit(made.features).T
    exact[:, list(made.errors)] = -np.inf
    np.testing.assert_allclose(cosines, np.take_along_axis(exact, rows, axis=1), atol=1e-6)
    np.testing.assert_allclose(cosines[:, :10], -np.sort(-exact, axis=1)[:, :10], atol=1e-6)
    assert not set(rows.ravel()) & set(made.errors)


def test_a_shortlist_longer_than_the_store_is_all_of_it(
    made: Made, store: FeatureStore, tmp_path: Path
) -> None:
    build(tmp_path, store)
    rows, cosines = SimilarIndex.open(tmp_path, store).nearest(made.features[:1], shortlist=10**6)
    assert sorted(rows[0]) == list(range(len(store)))
    assert np.isneginf(cosines).sum() == len(made.errors) and cosines[0, 0] == pytest.approx(
        1, abs=1e-3
    )


def test_fewer_directions_than_features_still_find_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "features.h5"
    benchmark.write(path, 3000, 800)
    store = FeatureStore(path)
    build(tmp_path / "similar", store)
    index = SimilarIndex.open(tmp_path / "similar", store)
    assert index.codes.shape == (3000, 512)
    queries = store.features(slice(0, 3000))[::150]
    found = index.nearest(queries, shortlist=60)[1][:, 9]
    assert (found >= benchmark.brute_force(store, unit(queries)) - 1e-5).mean() >= 0.95


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """A features.h5 of so many images that a scan leaves most of them out."""
    path = tmp_path_factory.mktemp("large") / "features.h5"
    benchmark.write(path, 8000, 400)
    return FeatureStore(path)


def scanned(folder: Path, store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> SimilarIndex:
    pytest.importorskip("faiss", reason="needs the extra similar")
    monkeypatch.setattr("features.scan.LARGE", 1000)
    build(folder, store)
    index = SimilarIndex.open(folder, store)
    assert index.scan is not None
    return index


def test_a_scan_finds_what_brute_force_finds(
    large: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = scanned(tmp_path, large, monkeypatch)
    queries = unit(large.features(slice(0, len(large)))[::100])
    queries += np.random.default_rng(2).normal(0, 0.2 / 20, queries.shape)
    found = index.nearest(queries)[1]
    assert found.shape == (80, SHORTLIST) and (np.diff(found, axis=1) <= 0).all()
    exact = benchmark.brute_force(large, unit(queries))[:, None]
    assert (found[:, :10] >= exact - 1e-5).mean() >= 0.99


def test_a_copy_comes_first_also_by_a_scan(
    large: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = scanned(tmp_path, large, monkeypatch)
    rows = np.arange(0, len(large), 50)
    found, cosines = index.nearest(large.features_at(rows))
    np.testing.assert_array_equal(found[:, 0], rows)
    np.testing.assert_allclose(cosines[:, 0], 1, atol=1e-6)


def test_an_index_with_a_scan_answers_without_faiss(
    large: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_scan = scanned(tmp_path, large, monkeypatch)
    monkeypatch.setattr("features.scan.LARGE", len(large) + 1)  # as if it were not installed
    without = SimilarIndex.open(tmp_path, large)
    assert without.scan is None
    queries = large.features(slice(0, 40))
    np.testing.assert_allclose(
        with_scan.nearest(queries)[1][:, :5], without.nearest(queries)[1][:, :5], atol=1e-6
    )


def test_a_scan_that_faiss_cannot_read_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="needs the extra similar")
    (tmp_path / "scan.faiss").write_bytes(b"of another version")
    with pytest.raises(ArtifactError, match=r"scan\.faiss: faiss \S+ can't read it.*step similar"):
        Scan.open(tmp_path / "scan.faiss")


@pytest.mark.parametrize("name", ["codes.npy", "projection.npz"])
def test_a_damaged_index_is_refused(store: FeatureStore, tmp_path: Path, name: str) -> None:
    build(tmp_path, store)
    content = bytearray((tmp_path / name).read_bytes())
    content[-5] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"{name}: its checksum is not .*step similar"):
        SimilarIndex.open(tmp_path, store)
    (tmp_path / name).unlink()
    with pytest.raises(ArtifactError, match=rf"{name}: no such file"):
        SimilarIndex.open(tmp_path, store)


def test_an_index_of_other_features_is_refused(
    made: Made, store: FeatureStore, tmp_path: Path
) -> None:
    build(tmp_path / "similar", store)
    made.write(tmp_path / "features.h5", made_from=MADE_FROM | {"checkpoint": "d" * 64})
    with pytest.raises(
        ArtifactError, match=r"made from something else: features\.checkpoint was 'c+', is now 'd+'"
    ):
        SimilarIndex.open(tmp_path / "similar", FeatureStore(tmp_path / "features.h5"))


def test_rows_from_anywhere(made: Made, store: FeatureStore) -> None:
    rows = np.array([0, 1, 2, 7, 9, 10, len(store) - 1])
    np.testing.assert_array_equal(
        store.features_at(rows), store.features(slice(0, len(store)))[rows]
    )
    assert store.features_at(rows[:0]).shape == (0, store.width)
