"""Writer of features.h5 that resumes after a kill.

Until it is complete the file is called features.h5.partial; a flush and a cursor follow every
batch. Never SWMR or libver="latest": a killed writer would leave a file that doesn't open.
"""

import json
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import h5py
import numpy as np

from catalog.artifacts import differences, publish, reserve, unreadable, writing
from catalog.errors import ArtifactError
from catalog.image_table import ImageTable
from catalog.splits import SPLITS
from features import schema
from features.hdf5 import open_hdf5
from stage1_cnn.head import Head

_log = logging.getLogger(__name__)
_ROW_BYTES, _MARGIN = 64, 2 * 2**20
"""Bytes of a row besides its features, and of a file besides its rows."""
_BLOCK = 4096
"""Rows per batch of vectors that no network makes."""


class FeatureWriter:
    """Writes the features of the images in `table` (store order), batch by batch; a context
    manager.

    Continues at `cursor` what an interrupted writer left, if that was made from the same things;
    else starts over. A file that is there stays until its successor can be written.

        with FeatureWriter(path, table, width, classes, made_from, computed_with) as writer:
            for start in range(writer.cursor, len(table), size):
                writer.write(features_of(table[start : start + size]), {})
            writer.finish(head)
    """

    def __init__(
        self,
        path: Path,
        table: ImageTable,
        width: int,
        classes: int,
        made_from: dict,
        computed_with: dict,
    ) -> None:
        self.path, self.partial, self.table = path, _partial(path), table
        with writing(self.partial):
            self.file = self._resume(made_from, computed_with) or self._create(
                width, classes, made_from, computed_with
            )
            self._reserve()
            path.unlink(missing_ok=True)  # only now that its successor can be written

    def _reserve(self) -> None:
        """Reserves disk space for what is left to write besides the features, whose space is
        allocated already: a full disk is then reported here, not in the middle of a batch, which
        HDF5 does not survive."""
        rows, width = self.file[schema.FEATURES].shape
        left = _beside(rows - self.cursor, width, self.file[schema.SLICES].shape[1])
        _grow(self.partial, self.file.id.get_filesize() + left)

    def _resume(self, made_from: dict, computed_with: dict) -> h5py.File | None:
        """The file that an interrupted writer left, if it can be continued."""
        if not self.partial.exists():
            return None
        try:
            file = open_hdf5(self.partial, "r+")
            if not self._continues(file, made_from):
                file.close()
                return None
            done = self.table.image_id[: int(file.attrs["cursor"])]
            errors = np.isin(file[schema.ERROR_ID][:], done).sum()
            file[schema.ERROR_REASON][:errors]  # readable
            before = json.loads(file.attrs["computed_with"])
        except (OSError, RuntimeError) as error:
            if not isinstance(fault := unreadable(self.partial, "", "", error), ArtifactError):
                raise fault from error  # the system refused to open it, it may be whole
            # Killed while the first bytes, or those of a reason, were written: nothing to keep.
            return None
        for name in (schema.ERROR_ID, schema.ERROR_REASON):
            file[name].resize((errors,))  # without a batch that was written but for the cursor
        file.flush()  # releases the reserved space
        if changes := differences(computed_with, before):
            consequence = "features then differ in their last digits"
            _log.warning("%s: %s; %s", self.partial, "; ".join(changes), consequence)
        return file

    def _continues(self, file: h5py.File, made_from: dict) -> bool:
        """Whether a file has the same origin and rows, and today's type of reasons, which earlier
        versions did not write."""
        return (
            file.attrs.get("made_from") == json.dumps(made_from)
            and file[schema.STATUS].shape == (len(self.table),)
            and file[schema.ERROR_REASON].dtype == schema.REASON
        )

    def _create(self, width: int, classes: int, made_from: dict, computed_with: dict) -> h5py.File:
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        rows = len(self.table)
        feature_bytes = rows * width * schema.FEATURE_DTYPE().itemsize
        self._try_space(feature_bytes + _beside(rows, width, classes))
        file = open_hdf5(self.partial, "w")
        chunks = (min(schema.chunk_rows(width), rows), width) if rows else None
        # Allocated early, so that a batch changes no structure, which a kill could leave half done.
        early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        file.create_dataset(
            schema.FEATURES,
            (rows, width),
            schema.FEATURE_DTYPE,
            chunks=chunks,
            fletcher32=rows > 0,
            dcpl=early,
        )
        _create_checked(file, schema.STATUS, np.full(rows, schema.PENDING, dtype=np.uint8))
        for name, dtype in schema.ROW_DTYPES.items():
            _create_checked(file, name, getattr(self.table, name).astype(dtype))
        _create_checked(file, schema.SLICES, _slices(self.table, classes))
        # Datasets, as an attribute holds 64 KiB at most.
        file.create_dataset(schema.ERROR_ID, (0,), np.int64, maxshape=(None,))
        file.create_dataset(schema.ERROR_REASON, (0,), schema.REASON, maxshape=(None,))
        file.attrs.update(schema=schema.SCHEMA, cursor=0, complete=False)
        file.attrs["computed_with"] = json.dumps(computed_with)
        file.attrs["made_from"] = json.dumps(made_from)  # last: a file without it is not resumed
        file.flush()
        return file

    def _try_space(self, size: int) -> None:
        """Reserves the space of the whole file before there is an HDF5 file that could break."""
        try:
            self.partial.write_bytes(b"")
            _grow(self.partial, size)
        except OSError:
            self.partial.unlink(missing_ok=True)
            raise

    @property
    def cursor(self) -> int:
        """Number of rows that are written."""
        return int(self.file.attrs["cursor"])

    def write(self, features: np.ndarray, errors: dict[int, str]) -> None:
        """Appends features [B, D] at the cursor; `errors` maps each unreadable row, counted within
        the batch, to the reason."""
        with writing(self.partial):
            self._reserve()
            self._write(features, errors)

    def _write(self, features: np.ndarray, errors: dict[int, str]) -> None:
        start, stop = self.cursor, self.cursor + len(features)
        status = np.full(len(features), schema.DONE, dtype=np.uint8)
        if errors:
            bad = list(errors)
            status[bad] = schema.UNREADABLE
            features = features.copy()
            features[bad] = 0
            self._append(schema.ERROR_ID, self.table.image_id[start + np.array(bad)])
            self._append(schema.ERROR_REASON, _texts(errors.values()))
        self.file[schema.FEATURES][start:stop] = features
        self.file[schema.STATUS][start:stop] = status
        # The cursor comes after a flush of the rest: a flush is many writes, and a kill may fall
        # between two of them.
        self.file.flush()
        self.file.attrs["cursor"] = stop
        self.file.flush()

    def _append(self, name: str, values: np.ndarray) -> None:
        length = len(self.file[name])
        self.file[name].resize((length + len(values),))
        self.file[name][length:] = values

    def finish(self, head: Head) -> None:
        """Adds the view's head, declares the file complete and gives it its final name."""
        with writing(self.path):
            self._reserve()
            self._replace(schema.HEAD_WEIGHT, head.weight)
            self._replace(schema.HEAD_BIAS, head.bias)
            self.file.attrs["complete"] = True
            self._close()
            publish(self.partial, self.path)

    def _replace(self, name: str, values: np.ndarray) -> None:
        if name in self.file:
            del self.file[name]
        _create_checked(self.file, name, values.astype(np.float32))

    def _close(self) -> None:
        self.file.flush()
        end = self.file.id.get_filesize()
        self.file.close()
        os.truncate(self.partial, end)

    def __enter__(self) -> "FeatureWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self.file:
            self._close()


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


def discard_partial(path: Path) -> None:
    """Removes what an interrupted writer of `path` left, so that the next one starts over."""
    _partial(path).unlink(missing_ok=True)


def _beside(rows: int, width: int, classes: int) -> int:
    """Upper estimate of the bytes that a file of so many rows has besides their features."""
    return rows * _ROW_BYTES + classes * (width + 32) * 4 + _MARGIN


def _texts(reasons: Iterable[str]) -> np.ndarray:
    """Reasons as they are stored: UTF-8, truncated between two characters if too long."""
    limit = schema.REASON.itemsize
    truncated = [text.encode()[:limit].decode("utf-8", "ignore").encode() for text in reasons]
    return np.array(truncated, dtype=schema.REASON)


def _grow(path: Path, size: int) -> None:
    with open(path, "r+b") as file:
        reserve(file, size, start=os.fstat(file.fileno()).st_size)


def _create_checked(file: h5py.File, name: str, data: np.ndarray) -> None:
    """A dataset whose bytes have a checksum, as only chunked ones can."""
    if data.size:
        file.create_dataset(name, data=data, fletcher32=True, chunks=True)
    else:
        file.create_dataset(name, data=data)


def _slices(table: ImageTable, classes: int) -> np.ndarray:
    """First and last+1 row of each split and class, int64 [splits, K, 2]."""
    key = table.split.astype(np.int64) * classes + table.class_index
    wanted = np.arange(len(SPLITS) * classes)
    borders = np.stack(
        [np.searchsorted(key, wanted, "left"), np.searchsorted(key, wanted, "right")], axis=1
    )
    return borders.reshape(len(SPLITS), classes, 2)


def write_features(
    path: Path,
    table: ImageTable,
    classes: int,
    made_from: dict,
    head: Head,
    features: Callable[[ImageTable], np.ndarray],
) -> None:
    """Writes a features.h5 of vectors that no network makes: `features` returns float16 [B, D] for
    some rows of `table`."""
    width = head.weight.shape[1]
    with FeatureWriter(path, table, width, classes, made_from, schema.NO_NETWORK) as writer:
        for start in range(writer.cursor, len(table), _BLOCK):
            writer.write(features(table[start : start + _BLOCK]), {})
        writer.finish(head)
