"""Reader of a finished features.h5, which takes one class of one split as one slice."""

import json
import os
from dataclasses import fields
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from catalog.artifacts import require_same, unreadable
from catalog.errors import ArtifactError
from catalog.image_table import ImageTable
from catalog.splits import SPLITS
from features import schema
from features.hdf5 import open_hdf5
from stage1_cnn.head import Head


def consecutive_runs(rows: np.ndarray) -> list[np.ndarray]:
    """Ascending rows split at each gap, so that neighbours are read at once."""
    return [run for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1) if len(run)]


class FeatureStore:
    """A finished features.h5, opened when first needed, once per process.

    Every read raises ArtifactError if the file is missing, damaged, unfinished or of another
    schema, and ShelfsortError if the system refuses to open it.

        store = FeatureStore(run / "features.h5")
        log_probs = store.head.log_probs(store.features(store.of_split("val_a")))
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._file: h5py.File | None = None
        self._pid = -1

    def __getstate__(self) -> dict:
        return {"path": self.path, "_file": None, "_pid": -1}

    @property
    def file(self) -> h5py.File:
        """The open file of this process."""
        if self._file is None or self._pid != os.getpid():
            self._file, self._pid = self._open(), os.getpid()
        return self._file

    def _open(self) -> h5py.File:
        if not self.path.exists():
            raise ArtifactError(self.path, "no such file", "features")
        try:
            file = open_hdf5(self.path)
            version, complete = file.attrs.get("schema"), file.attrs.get("complete")
        except OSError as error:
            problem = f"not readable as HDF5 ({error})"
            raise unreadable(self.path, problem, "features", error) from error
        if version != schema.SCHEMA or not complete:
            other = f"features of schema {version}, expected {schema.SCHEMA}"
            raise ArtifactError(self.path, other if complete else "unfinished", "features")
        return file

    def _read(self, name: str, rows: slice | tuple = ()) -> np.ndarray:
        try:
            return self.file[name][rows]
        except (OSError, KeyError) as error:
            raise ArtifactError(self.path, f"{name} is damaged ({error})", "features") from error

    def __len__(self) -> int:
        return len(self.status)

    @property
    def made_from(self) -> dict:
        """Checkpoint, transform, store, dtype and schema that the features come from."""
        return json.loads(self.file.attrs["made_from"])

    @property
    def computed_with(self) -> dict:
        """Device, precision and runtime of the computation."""
        return json.loads(self.file.attrs["computed_with"])

    def require(self, made_from: dict) -> None:
        """Raises ArtifactError unless the file was made from exactly `made_from`."""
        require_same(self.path, made_from, self.made_from, "features")

    @cached_property
    def table(self) -> ImageTable:
        """The images, one row per row of features."""
        return ImageTable(*(self._read(field.name) for field in fields(ImageTable)))

    @cached_property
    def status(self) -> np.ndarray:
        """uint8 [N]: DONE or UNREADABLE."""
        return self._read(schema.STATUS)

    @cached_property
    def slices(self) -> np.ndarray:
        """First and last + 1 row of each split and class, int64 [splits, K, 2]; a split that is
        younger than the file has none."""
        stored = self._read(schema.SLICES)
        return np.pad(stored, ((0, len(SPLITS) - len(stored)), (0, 0), (0, 0)))

    @property
    def errors(self) -> dict[int, str]:
        """Image id -> why it could not be read."""
        reasons = [reason.decode() for reason in self._read(schema.ERROR_REASON)]
        return dict(zip(self._read(schema.ERROR_ID).tolist(), reasons, strict=True))

    @property
    def width(self) -> int:
        """D, the number of features."""
        return self.file[schema.FEATURES].shape[1]

    @cached_property
    def head(self) -> Head:
        """The last layer."""
        return Head(self._read(schema.HEAD_WEIGHT), self._read(schema.HEAD_BIAS))

    def of_class(self, split: str, class_index: int) -> slice:
        """The rows of one class of one split."""
        return slice(*self.slices[SPLITS.index(split), class_index].tolist())

    def of_split(self, split: str) -> slice:
        """The rows of one split."""
        number = SPLITS.index(split)
        return slice(int(self.slices[number, 0, 0]), int(self.slices[number, -1, 1]))

    def features(self, rows: slice) -> np.ndarray:
        """Features float16 [n, D] of a slice of rows."""
        return self._read(schema.FEATURES, rows)

    def features_at(self, rows: np.ndarray) -> np.ndarray:
        """Features float16 [n, D] of ascending rows int64 [n] from anywhere in the file."""
        parts = [
            self.features(slice(int(run[0]), int(run[-1]) + 1)) for run in consecutive_runs(rows)
        ]
        return np.concatenate([np.zeros((0, self.width), dtype=schema.FEATURE_DTYPE), *parts])

    @cached_property
    def _chunk_offsets(self) -> np.ndarray:
        """Where in the file each chunk of features begins, int64."""
        dataset = self.file[schema.FEATURES]
        rows = dataset.chunks[0]
        offsets = np.zeros(-(-len(dataset) // rows), dtype=np.int64)

        def visit(chunk: h5py.h5d.StoreInfo) -> None:
            offsets[chunk.chunk_offset[0] // rows] = chunk.byte_offset

        dataset.id.chunk_iter(visit)
        return offsets

    def scattered(self, rows: np.ndarray) -> np.ndarray:
        """Features float16 [n, D] of rows int64 [n] from anywhere, in any order. Reads no more than
        these, so checksums, which are of whole chunks, are not verified: many times as fast as
        `features_at` for rows that are far apart."""
        features = np.empty((len(rows), self.width), dtype=schema.FEATURE_DTYPE)
        per_chunk, size = self.file[schema.FEATURES].chunks[0], features.itemsize * self.width
        offsets = self._chunk_offsets[rows // per_chunk] + rows % per_chunk * size
        with open(self.path, "rb") as file:
            for position, offset in enumerate(offsets.tolist()):
                features[position] = np.frombuffer(
                    os.pread(file.fileno(), size, offset), features.dtype
                )
        return features
