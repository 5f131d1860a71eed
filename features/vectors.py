"""Vectors of images that come from the user: an HDF5 file with `image_id` int64 [N] and `features`
float [N, D]."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from catalog.arrays import find_rows
from catalog.errors import ShelfsortError
from features.hdf5 import open_hdf5
from features.schema import FEATURE_DTYPE
from features.store import consecutive_runs
from stage1_cnn.head import Head


class VectorFile:
    """Looks vectors up by image id, whatever their order in the file; a context manager.

    Raises ShelfsortError if the file is not in the format.

        with VectorFile("vectors.h5") as file:
            vectors = file.features(table.image_id)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._file = open_hdf5(self.path)
        except OSError as error:
            raise ShelfsortError(f"{path}: can't be read as HDF5: {error}") from error
        shapes = {
            name: self._file[name].shape if name in self._file else None
            for name in ("image_id", "features")
        }
        ids, features = shapes["image_id"], shapes["features"]
        if not (
            ids and features and len(ids) == 1 and len(features) == 2 and ids[0] == features[0]
        ):
            expected = "expected datasets image_id [N] and features [N, D]"
            raise ShelfsortError(f"{path}: {expected}, found image_id {ids}, features {features}")

    def __enter__(self) -> "VectorFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def width(self) -> int:
        """D, the length of the vectors."""
        return self._file["features"].shape[1]

    @cached_property
    def _ids(self) -> tuple[np.ndarray, np.ndarray]:
        """The ids in the order of the file, and the rows in ascending order of the ids."""
        ids = self._file["image_id"][:].astype(np.int64)
        order = np.argsort(ids, kind="stable")
        ascending = ids[order]
        if len(repeated := ascending[1:][ascending[1:] == ascending[:-1]]):
            problem = f"image {repeated[0]} occurs twice, expected each image once"
            raise ShelfsortError(f"{self.path}: {problem}")
        return ids, order

    def rows(self, image_id: np.ndarray) -> np.ndarray:
        """The row of each image. Raises ShelfsortError if one is missing."""
        ids, order = self._ids
        rows = find_rows(ids, image_id, order)
        if len(missing := image_id[rows < 0]):
            problem = f"holds no vector of image {missing[0]}, expected one of every image"
            raise ShelfsortError(f"{self.path}: {problem} (zeros if nothing is known of it)")
        return rows

    def features(self, image_id: np.ndarray) -> np.ndarray:
        """Vectors float16 [n, D] of some images int64 [n]. Raises ShelfsortError if one is missing
        or beyond float16."""
        rows, inverse = np.unique(self.rows(image_id), return_inverse=True)
        runs = [self._file["features"][run[0] : run[-1] + 1] for run in consecutive_runs(rows)]
        given = np.concatenate([np.zeros((0, self.width)), *runs])[inverse]
        with np.errstate(over="ignore"):
            vectors = given.astype(FEATURE_DTYPE)
        if len(bad := image_id[~np.isfinite(vectors).all(axis=1)]):
            problem = f"the vector of image {bad[0]} is not finite as float16"
            raise ShelfsortError(f"{self.path}: {problem}, expected -65504 to 65504")
        return vectors


@dataclass(frozen=True)
class GivenVectors:
    """A view of images to be scored: the file of their vectors, and the head that was fitted on
    those of the store."""

    file: VectorFile
    head: Head

    def __post_init__(self) -> None:
        """Raises ShelfsortError if the vectors are not as long as the store's."""
        width, expected = self.file.width, self.head.weight.shape[1]
        if width != expected:
            problem = f"vectors of length {width}, expected {expected} as in training"
            raise ShelfsortError(f"{self.file.path}: {problem}")

    @property
    def width(self) -> int:
        """D, the length of the vectors."""
        return self.file.width

    def features(self, image_id: np.ndarray) -> np.ndarray:
        """Vectors float16 [n, D] of some images int64 [n]."""
        return self.file.features(image_id)
