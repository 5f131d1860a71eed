"""Vectors of images that were made elsewhere: an HDF5 file with `image_id` int64 [N] and `features`
float [N, D]."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from catalog.errors import ShelfsortError
from features.schema import FEATURE_DTYPE
from features.store import consecutive_runs
from stage1_cnn.head import Head


class VectorFile:
    """Looks vectors up by image id, whatever the order of the file; a context manager. Raises
    ShelfsortError where the file is not in the format."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._file = h5py.File(self.path, "r")
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
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """The ids, ascending, and the row of each."""
        ids = self._file["image_id"][:].astype(np.int64)
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
        if (repeated := ids[1:] == ids[:-1]).any():
            raise ShelfsortError(
                f"{self.path}: image {ids[1:][repeated][0]} stands there twice, expected each image once"
            )
        return ids, order

    def rows(self, image_id: np.ndarray) -> np.ndarray:
        """The row of each image. Raises ShelfsortError where one is missing."""
        ids, row = self._sorted
        place = np.searchsorted(ids, image_id).clip(max=len(ids) - 1)
        missing = image_id[ids[place] != image_id] if len(ids) else image_id
        if len(missing):
            detail = f"holds no vector of image {missing[0]}, expected one of every image"
            raise ShelfsortError(
                f"{self.path}: {detail} (zeros, where there is nothing to be known)"
            )
        return row[place]

    def features(self, image_id: np.ndarray) -> np.ndarray:
        """Vectors float16 [n, D] of some images int64 [n]. Raises ShelfsortError where one is
        missing or beyond float16."""
        rows, back = np.unique(self.rows(image_id), return_inverse=True)
        parts = [self._file["features"][run[0] : run[-1] + 1] for run in consecutive_runs(rows)]
        with np.errstate(over="ignore"):
            vectors = np.concatenate([np.zeros((0, self.width)), *parts])[back].astype(
                FEATURE_DTYPE
            )
        if len(bad := image_id[~np.isfinite(vectors).all(axis=1)]):
            raise ShelfsortError(
                f"{self.path}: the vector of image {bad[0]} is not finite as float16, expected -65504 to 65504"
            )
        return vectors


@dataclass(frozen=True)
class GivenVectors:
    """A view of images to be scored: the file with their vectors, and the head that was fitted on
    the store's."""

    file: VectorFile
    head: Head

    def __post_init__(self) -> None:
        """Raises ShelfsortError where the vectors are not as long as the store's."""
        if self.file.width != self.head.weight.shape[1]:
            detail = f"vectors of length {self.file.width}, expected {self.head.weight.shape[1]} as in training"
            raise ShelfsortError(f"{self.file.path}: {detail}")

    @property
    def width(self) -> int:
        """D, the length of the vectors."""
        return self.file.width

    def features(self, image_id: np.ndarray) -> np.ndarray:
        """Vectors float16 [n, D] of some images int64 [n]."""
        return self.file.features(image_id)
