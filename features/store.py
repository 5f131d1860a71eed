"""features.h5: a writer that resumes after a kill, and a reader that takes one class of one split
as one slice.

While it is written the file is called features.h5.partial; a flush and a cursor follow every batch.
Never SWMR or libver="latest": a killed writer would leave a file that doesn't open.
"""

import json
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from catalog.artifacts import differences, publish, require_same, reserve, writing
from catalog.errors import ArtifactError
from catalog.image_table import ImageTable
from catalog.splits import SPLITS
from features import schema
from stage1_cnn.head import Head

log = logging.getLogger(__name__)
_ROW_BYTES, _MARGIN = 64, 2 * 2**20
"""What a row takes beside its features, and a file beside its rows."""
_BLOCK = 4096
NO_NETWORK = {"device": "none", "precision": "fp32", "runtime": "none"}
"""`computed_with` of vectors that no network made."""


class FeatureWriter:
    """Writes the features of the images in `table` (store order), batch by batch; a context
    manager.

    Opens what an interrupted writer left and goes on at `cursor`, where it was made from the same
    things; else starts anew.
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

    def _reserve(self) -> None:
        """Has the disk set aside what is left to be written, beside the features, which have their
        place: a full one says so now, and not in the middle of a batch, which HDF5 does not
        survive."""
        rows, width = self.file[schema.FEATURES].shape
        left = _beside(rows - self.cursor, width, self.file[schema.SLICES].shape[1])
        _grow(self.partial, self.file.id.get_filesize() + left)

    def _resume(self, made_from: dict, computed_with: dict) -> h5py.File | None:
        if not self.partial.exists():
            return None
        try:
            file = h5py.File(self.partial, "r+")
            same = file.attrs.get("made_from") == json.dumps(made_from) and file[
                schema.STATUS
            ].shape == (len(self.table),)
            if (
                not same or file[schema.ERROR_REASON].dtype != schema.REASON
            ):  # as earlier versions wrote them
                file.close()
                return None
            known = np.isin(
                file[schema.ERROR_ID][:], self.table.image_id[: int(file.attrs["cursor"])]
            ).sum()
            file[schema.ERROR_REASON][:known]
            before = json.loads(file.attrs["computed_with"])
        except (
            OSError,
            RuntimeError,
        ):  # killed while the first bytes were written, or those of a reason: nothing to keep
            return None
        for name in (
            schema.ERROR_ID,
            schema.ERROR_REASON,
        ):  # of a batch that was being written when the cursor stood before it
            file[name].resize((known,))
        file.flush()  # gives back what was set aside
        if changes := differences(computed_with, before):
            log.warning(
                "%s: %s; features then differ in their last digits",
                self.partial,
                "; ".join(changes),
            )
        return file

    def _create(self, width: int, classes: int, made_from: dict, computed_with: dict) -> h5py.File:
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        rows = len(self.table)
        self._try_space(
            rows * width * schema.FEATURE_DTYPE().itemsize + _beside(rows, width, classes)
        )
        file = h5py.File(self.partial, "w")
        chunks = (min(schema.chunk_rows(width), rows), width) if rows else None
        early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        early.set_alloc_time(
            h5py.h5d.ALLOC_TIME_EARLY
        )  # a batch then changes no structure, which a kill could leave half done
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
        for name, dtype in ((schema.ERROR_ID, np.int64), (schema.ERROR_REASON, schema.REASON)):
            file.create_dataset(
                name, (0,), dtype, maxshape=(None,)
            )  # not an attribute, which holds 64 KiB at most
        file.attrs.update(schema=schema.SCHEMA, cursor=0, complete=False)
        file.attrs["computed_with"] = json.dumps(computed_with)
        file.attrs["made_from"] = json.dumps(made_from)  # last: a file without it is not resumed
        file.flush()
        return file

    def _try_space(self, size: int) -> None:
        """While there is no HDF5 file yet that could break."""
        try:
            self.partial.write_bytes(b"")
            _grow(self.partial, size)
        except OSError:
            self.partial.unlink(missing_ok=True)
            raise

    @property
    def cursor(self) -> int:
        """Rows that are done."""
        return int(self.file.attrs["cursor"])

    def write(self, features: np.ndarray, errors: dict[int, str]) -> None:
        """Appends features [B, D] at the cursor; `errors` maps rows within the batch that could not
        be read to the reason."""
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
            found = {
                schema.ERROR_ID: self.table.image_id[start + np.array(bad)],
                schema.ERROR_REASON: _texts(errors.values()),
            }
            for name, values in found.items():
                known = len(self.file[name])
                self.file[name].resize((known + len(bad),))
                self.file[name][known:] = values
        self.file[schema.FEATURES][start:stop] = features
        self.file[schema.STATUS][start:stop] = status
        # all of it, and only then the cursor: a flush is many writes, and a kill may fall between
        # two
        self.file.flush()
        self.file.attrs["cursor"] = stop
        self.file.flush()

    def finish(self, head: Head | None) -> None:
        """Adds stage 1's head, declares the file complete and gives it its final name."""
        with writing(self.path):
            self._reserve()
            if head is not None:
                for name, values in (
                    (schema.HEAD_WEIGHT, head.weight),
                    (schema.HEAD_BIAS, head.bias),
                ):
                    if name in self.file:
                        del self.file[name]
                    _create_checked(self.file, name, values.astype(np.float32))
            self.file.attrs["complete"] = True
            self._close()
            publish(self.partial, self.path)

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


def discard(path: Path) -> None:
    """Removes a features.h5, and what an interrupted writer left of it."""
    path.unlink(missing_ok=True)
    _partial(path).unlink(missing_ok=True)


def _beside(rows: int, width: int, classes: int) -> int:
    """About how many bytes a file of so many rows has beside their features, rather too many."""
    return rows * _ROW_BYTES + classes * (width + 32) * 4 + _MARGIN


def _texts(reasons: Iterable[str]) -> np.ndarray:
    """As they are stored, cut between two characters where they are too long."""
    cut = [
        reason.encode()[: schema.REASON.itemsize].decode("utf-8", "ignore").encode()
        for reason in reasons
    ]
    return np.array(cut, dtype=schema.REASON)


def _grow(path: Path, size: int) -> None:
    with open(path, "r+b") as file:
        reserve(file, size, start=os.fstat(file.fileno()).st_size)


def _create_checked(file: h5py.File, name: str, data: np.ndarray) -> None:
    """A dataset whose bytes have a checksum, as only chunked ones can."""
    file.create_dataset(
        name, data=data, fletcher32=True, chunks=True
    ) if data.size else file.create_dataset(name, data=data)


def _slices(table: ImageTable, classes: int) -> np.ndarray:
    """First and last+1 row of each split and class, int64 [splits, K, 2]."""
    key = table.split.astype(np.int64) * classes + table.class_index
    wanted = np.arange(len(SPLITS) * classes)
    borders = np.stack(
        [np.searchsorted(key, wanted, "left"), np.searchsorted(key, wanted, "right")], axis=1
    )
    return borders.reshape(len(SPLITS), classes, 2)


def runs_of(rows: np.ndarray) -> list[np.ndarray]:
    """Ascending rows cut where one is left out, so that neighbours are read at once."""
    return [run for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1) if len(run)]


def write_features(
    path: Path,
    table: ImageTable,
    classes: int,
    made_from: dict,
    head: Head,
    features: Callable[[ImageTable], np.ndarray],
) -> None:
    """Writes a features.h5 of vectors that no network makes: `features` gives float16 [B, D] of
    some rows of `table`."""
    with FeatureWriter(path, table, head.weight.shape[1], classes, made_from, NO_NETWORK) as writer:
        for start in range(writer.cursor, len(table), _BLOCK):
            writer.write(features(table[start : start + _BLOCK]), {})
        writer.finish(head)


class FeatureStore:
    """Reader of a finished features.h5. Opens lazily, once per process; row arrays are read when
    first asked for.

    Raises ArtifactError where the file is missing, damaged, unfinished or of another schema.
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
            file = h5py.File(self.path, "r")
            version, complete = file.attrs.get("schema"), file.attrs.get("complete")
        except OSError as error:
            raise ArtifactError(self.path, f"not readable as HDF5 ({error})", "features") from error
        if version != schema.SCHEMA or not complete:
            problem = (
                f"features of schema {version}, expected {schema.SCHEMA}"
                if complete
                else "unfinished"
            )
            raise ArtifactError(self.path, problem, "features")
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
        """Raises ArtifactError unless the file was made from exactly this."""
        require_same(self.path, made_from, self.made_from, "features")

    @cached_property
    def table(self) -> ImageTable:
        """The images, a row a feature row."""
        return ImageTable(*(self._read(field.name) for field in fields(ImageTable)))

    @cached_property
    def status(self) -> np.ndarray:
        """uint8 [N]: DONE or UNREADABLE."""
        return self._read(schema.STATUS)

    @cached_property
    def slices(self) -> np.ndarray:
        """int64 [splits, K, 2]: first and last+1 row."""
        return self._read(schema.SLICES)

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
    def head(self) -> Head | None:
        """The network's last layer; None where the features have none, as vectors of a text."""
        if schema.HEAD_WEIGHT not in self.file:
            return None
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
        parts = [self.features(slice(int(run[0]), int(run[-1]) + 1)) for run in runs_of(rows)]
        return np.concatenate([np.zeros((0, self.width), dtype=schema.FEATURE_DTYPE), *parts])
