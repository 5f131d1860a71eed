"""The index of a dump: the file, offset and length of every product. Built in one scan and saved;
gives random access and partitions of equal size."""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xxhash

from catalog.arrays import find_rows, read_npz, write_npz
from catalog.artifacts import fingerprint
from catalog.errors import ArtifactError, DumpError
from catalog.progress import progress
from catalog.sources.bson_reader import DumpFile, Location, OnError, documents, expand, parse

log = logging.getLogger(__name__)

SCHEMA = 1
_DTYPES = {
    "product_id": np.int64,
    "category_id": np.int64,
    "n_images": np.int32,
    "source": np.int16,
    "offset": np.int64,
    "length": np.int32,
    "digest": np.uint64,
}
_BLOCK = 8_192


@dataclass(frozen=True)
class Reject:
    """A document or an image that was left out, and why. `position` is -1 for a document,
    `product_id` -1 if unknown."""

    source: str
    offset: int
    position: int
    product_id: int
    reason: str
    detail: str

    @classmethod
    def of(cls, error: DumpError) -> "Reject":
        """The reject of a document with this error."""
        return cls(error.source, error.offset, -1, error.product_id, error.reason, error.detail)


@dataclass(frozen=True)
class DumpIndex:
    """One row per readable product, in file order (arrays as in docs/formats.md), and the rejects
    of the scan."""

    sources: tuple[DumpFile, ...]
    rejects: tuple[Reject, ...]
    product_id: np.ndarray
    category_id: np.ndarray
    n_images: np.ndarray
    source: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    digest: np.ndarray

    def __len__(self) -> int:
        return len(self.product_id)

    def __getitem__(self, rows: slice) -> "DumpIndex":
        """Some rows, with the same sources and without rejects."""
        return replace(self, rejects=(), **{name: getattr(self, name)[rows] for name in _DTYPES})

    @property
    def fingerprint(self) -> str:
        """Changes if any document or its offset changes, not with the dump's path or time."""
        state = xxhash.xxh3_128()
        for name in _DTYPES:
            state.update(np.ascontiguousarray(getattr(self, name)).tobytes())
        rejects = [(r.offset, r.reason) for r in self.rejects]
        return fingerprint([SCHEMA, state.hexdigest(), [s.size for s in self.sources], rejects])

    def relabelled(self, labels: Mapping[int, int]) -> "DumpIndex":
        """The index with other category ids for some products; ids that the dump lacks are
        ignored."""
        if not labels:
            return self
        ids = np.array(sorted(labels), dtype=np.int64)
        rows = find_rows(ids, self.product_id)
        better = np.array([labels[i] for i in ids.tolist()], dtype=np.int64)
        return replace(self, category_id=np.where(rows >= 0, better[rows], self.category_id))

    def labels_of(self, product_ids: Iterable[int]) -> dict[int, int]:
        """Category id of those of some products that the dump has."""
        ids = np.array(sorted(product_ids), dtype=np.int64)
        found = np.flatnonzero(find_rows(ids, self.product_id) >= 0)
        labels = self.category_id[found].tolist()
        return dict(zip(self.product_id[found].tolist(), labels, strict=True))

    def location(self, row: int) -> Location:
        """Where the document of a row is, as DumpReader.product takes it."""
        return Location(
            int(self.source[row]),
            int(self.offset[row]),
            int(self.length[row]),
            int(self.digest[row]),
        )

    def reject(self, row: int, reason: str, detail: str, position: int = -1) -> Reject:
        """The reject of a row's document, or of its image at `position`."""
        source = self.sources[int(self.source[row])].path
        product_id = int(self.product_id[row])
        return Reject(source, int(self.offset[row]), position, product_id, reason, detail)

    def save(self, path: Path) -> None:
        """Writes the index as an npz without objects, atomically."""
        header = {
            "schema": SCHEMA,
            "sources": [list(s) for s in self.sources],
            "rejects": [vars(r) for r in self.rejects],
        }
        arrays = {name: getattr(self, name) for name in _DTYPES}
        write_npz(path, header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8), **arrays)

    @classmethod
    def load(cls, path: Path) -> "DumpIndex":
        """Reads a saved index. Raises ArtifactError if it is damaged or of another schema."""
        arrays = read_npz(path, "ingest")
        try:
            header = json.loads(arrays["header"].tobytes())
            if header["schema"] != SCHEMA:
                raise ValueError(f"index of schema {header['schema']}, expected {SCHEMA}")
            sources = tuple(DumpFile(*s) for s in header["sources"])
            rejects = tuple(Reject(**r) for r in header["rejects"])
            columns = {n: arrays[n].astype(dtype, copy=False) for n, dtype in _DTYPES.items()}
        except (ValueError, KeyError, TypeError) as error:
            problem = f"not readable as the index of a dump ({error})"
            raise ArtifactError(path, problem, "ingest") from error
        return cls(sources, rejects, **columns)


def partition(sizes: np.ndarray, each: int) -> list[tuple[int, int]]:
    """Ranges (first, last + 1) of rows whose `sizes` [N] sum to about `each`: at least one row in
    each, every row in one."""
    if not len(sizes):
        return []
    borders = np.flatnonzero(np.diff(np.cumsum(sizes, dtype=np.int64) // each)) + 1
    return list(zip([0, *borders.tolist()], [*borders.tolist(), len(sizes)], strict=True))


def build_index(paths: Iterable[str | Path], on_error: OnError | None = None) -> DumpIndex:
    """Scans a dump once. Faults become `rejects`, unless a policy is passed in. Memory: about 42
    bytes per product."""
    return _scan(tuple(expand(paths)), on_error)


def _scan(sources: tuple[DumpFile, ...], on_error: OnError | None = None) -> DumpIndex:
    rejects: list[Reject] = []

    def quarantine(error: DumpError) -> None:
        rejects.append(Reject.of(error))  # not the error, whose traceback holds the document

    report = on_error or quarantine
    blocks: list[dict[str, np.ndarray]] = []
    rows: list[tuple] = []
    with progress(sum(s.size for s in sources), "scan", "B") as bar:
        for number, source in enumerate(sources):
            for document in documents(source, report):
                bar.update(len(document.data))
                try:
                    product = parse(document)
                except DumpError as error:
                    report(error)
                    continue
                digest = xxhash.xxh3_64_intdigest(document.data)
                found_at = (number, document.offset, len(document.data), digest)
                row = (product.product_id, product.category_id, len(product.images), *found_at)
                rows.append(row)
                if len(rows) == _BLOCK:
                    blocks.append(_columns(rows))
                    rows = []
    blocks.append(_columns(rows))
    arrays = {name: np.concatenate([block[name] for block in blocks]) for name in _DTYPES}
    return DumpIndex(sources, tuple(rejects), **arrays)


def _columns(rows: list[tuple]) -> dict[str, np.ndarray]:
    columns = zip(*rows, strict=True) if rows else [()] * len(_DTYPES)
    return {
        name: np.array(column, dtype=_DTYPES[name])
        for name, column in zip(_DTYPES, columns, strict=True)
    }


def open_index(paths: Iterable[str | Path], folder: Path) -> DumpIndex:
    """The saved index of a dump if its files are unchanged; otherwise scans the dump and saves the
    index in `folder`."""
    sources = expand(paths)
    first = Path(sources[0].path).name[:40]  # a name may have 255 bytes in all
    path = folder / f"{first}-{fingerprint([s.path for s in sources])}.npz"
    if path.exists():
        try:
            index = DumpIndex.load(path)
            if list(index.sources) == sources:
                return index
        except ArtifactError as error:
            log.warning("%s: %s; the dump is scanned again", path, error.problem)
    index = _scan(tuple(sources))
    index.save(path)
    return index
