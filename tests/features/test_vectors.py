"""Files of vectors: read by image id, and refused in a sentence if something is wrong."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from catalog.errors import ShelfsortError
from features.vectors import VectorFile


def write(path: Path, **datasets: object) -> VectorFile:
    with h5py.File(path, "w") as file:
        for name, data in datasets.items():
            file[name] = data
    return VectorFile(path)


def test_vectors_are_found_by_image_id(tmp_path: Path) -> None:
    features = np.arange(15.0).reshape(5, 3)
    vectors = write(tmp_path / "v.h5", image_id=np.array([7, 1, 9, 3, 2**60]), features=features)
    found = vectors.features(np.array([3, 7, 2**60, 3]))
    assert found.dtype == np.float16 and vectors.width == 3
    np.testing.assert_array_equal(found, features[[3, 0, 4, 3]])
    assert vectors.features(np.zeros(0, dtype=np.int64)).shape == (0, 3)


@pytest.mark.parametrize(
    ("ids", "features", "message"),
    [
        ([1, 3], [[1.0], [2.0]], "holds no vector of image 2, expected one of every image"),
        ([1, 2, 2], [[1.0]] * 3, "image 2 occurs twice"),
        ([1, 2], [[1.0], [np.nan]], "the vector of image 2 is not finite as float16"),
        ([1, 2], [[1.0], [1e5]], "the vector of image 2 is not finite as float16"),
        (
            [1, 2],
            [1.0, 2.0],
            r"expected datasets image_id \[N\] and features \[N, "
            r"D\], found image_id \(2,\), features \(2,\)",
        ),
        ([1, 2], [[1.0]], r"found image_id \(2,\), features \(1, 1\)"),
        ([], np.zeros((0, 2)), "holds no vector of image 1"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    tmp_path: Path, ids: list, features: object, message: str
) -> None:
    with pytest.raises(ShelfsortError, match=rf"v\.h5: .*{message}"):
        write(
            tmp_path / "v.h5", image_id=np.array(ids, dtype=np.int64), features=features
        ).features(np.array([1, 2]))


def test_what_is_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ShelfsortError, match=r"no\.h5: can't be read as HDF5"):
        VectorFile(tmp_path / "no.h5")
    with pytest.raises(ShelfsortError, match="found image_id None, features None"):
        write(tmp_path / "v.h5", other=[1])
