"""The index of a dump: the file, offset and length of every product. Built in one scan and saved;
gives random access and partitions of equal size."""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from catalog.arrays import PackedTexts, read_npz, write_npz
from catalog.artifacts import fingerprint
from catalog.config import Fields, SourcesConfig
from catalog.errors import ArtifactError, DumpError
from catalog.files import ACCESS
from catalog.image_table import MAX_PRODUCT_ID
from catalog.progress import progress
from catalog.sources.bson_reader import (
    DEFAULT,
    Document,
    DumpFile,
    Location,
    OnError,
    Product,
    documents,
    expand,
    parse,
)
from catalog.sources.categories import CategoryColumn
from catalog.sources.keys import Key, Keys, KeyType

log = logging.getLogger(__name__)

SCHEMA = 2
_CONTENT = 1
"""Of `fingerprint`: stores name the dumps that they hold by it."""
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
    `product_id` the shop's key, -1 if unknown."""

    source: str
    offset: int
    position: int
    product_id: Key
    reason: str
    detail: str

    @classmethod
    def of(cls, error: DumpError) -> "Reject":
        """The reject of a document with this error."""
        return cls(error.source, error.offset, -1, error.product_id, error.reason, error.detail)


@dataclass(frozen=True)
class DumpIndex:
    """One row per readable product, in file order (arrays as in docs/formats.md), and the rejects
    of the scan. `category_id` are ids, or places in `category_names`; -1 if a product has none, -2
    if it has something that is none. `fields` are the names that the scan went by."""

    sources: tuple[DumpFile, ...]
    rejects: tuple[Reject, ...]
    product_id: np.ndarray
    category_id: np.ndarray
    n_images: np.ndarray
    source: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    digest: np.ndarray
    key_texts: tuple[str, ...] | None = None
    key_type: KeyType = "int"
    category_names: tuple[str, ...] | None = None
    fields: Fields = DEFAULT

    def __len__(self) -> int:
        return len(self.product_id)

    def __getitem__(self, rows: slice) -> "DumpIndex":
        """Some rows, with the same sources and without rejects."""
        arrays = {name: getattr(self, name)[rows] for name in _DTYPES}
        texts = None if self.key_texts is None else self.key_texts[rows]
        return replace(self, rejects=(), key_texts=texts, **arrays)

    @property
    def keys(self) -> Keys:
        """The products' keys."""
        return Keys(self.product_id, self.key_texts, self.key_type)

    @property
    def fingerprint(self) -> str:
        """Changes if any document or its offset changes, not with the dump's path or time."""
        state = xxhash.xxh3_128()
        for name in _DTYPES:
            state.update(np.ascontiguousarray(getattr(self, name)).tobytes())
        rejects = [(r.offset, r.reason) for r in self.rejects]
        sizes = [s.size for s in self.sources]
        other_names = (
            [self.fields.model_dump(exclude_defaults=True)] if self.fields != DEFAULT else []
        )
        return fingerprint([_CONTENT, state.hexdigest(), sizes, rejects, *other_names])

    def location(self, row: int) -> Location:
        """Where the document of a row is, as DumpReader.product takes it."""
        return Location(
            int(self.source[row]),
            int(self.offset[row]),
            int(self.length[row]),
            int(self.digest[row]),
        )

    def save(self, path: Path) -> None:
        """Writes the index as an npz without objects, atomically."""
        header = {
            "schema": SCHEMA,
            "sources": [list(s) for s in self.sources],
            "rejects": [vars(r) for r in self.rejects],
            "key_type": self.key_type,
            "category_names": self.category_names,
            "fields": self.fields.model_dump(),
        }
        arrays = {name: getattr(self, name) for name in _DTYPES}
        if self.key_texts is not None:
            arrays |= PackedTexts.of(self.key_texts).arrays("key_texts")
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
            columns: dict[str, Any] = {
                n: arrays[n].astype(dtype, copy=False) for n, dtype in _DTYPES.items()
            }
            packed = "key_texts" in arrays
            texts = tuple(PackedTexts.from_arrays("key_texts", arrays)) if packed else None
            names = header["category_names"]
            fields = Fields(**header["fields"])
        except (ValueError, KeyError, TypeError) as error:
            problem = f"not readable as the index of a dump ({error})"
            raise ArtifactError(path, problem, "ingest") from error
        return cls(
            sources,
            rejects,
            **columns,
            key_texts=texts,
            key_type=header["key_type"],
            category_names=None if names is None else tuple(names),
            fields=fields,
        )


def partition(sizes: np.ndarray, each: int) -> list[tuple[int, int]]:
    """Ranges (first, last + 1) of rows whose `sizes` [N] sum to about `each`: at least one row in
    each, every row in one."""
    if not len(sizes):
        return []
    borders = np.flatnonzero(np.diff(np.cumsum(sizes, dtype=np.int64) // each)) + 1
    return list(zip([0, *borders.tolist()], [*borders.tolist(), len(sizes)], strict=True))


def build_index(
    paths: Iterable[str | Path], on_error: OnError | None = None, names: Fields = DEFAULT
) -> DumpIndex:
    """Scans a dump once. Faults become `rejects`, unless a policy is passed in. Memory: about 42
    bytes per product, and its key if that is no number from 0 to 2^49 - 1."""
    return _scan(tuple(expand(paths)), names, on_error)


def _scan(
    sources: tuple[DumpFile, ...],
    names: Fields,
    on_error: OnError | None = None,
    access: SourcesConfig = ACCESS,
) -> DumpIndex:
    rejects: list[Reject] = []

    def quarantine(error: DumpError) -> None:
        rejects.append(Reject.of(error))  # not the error, whose traceback holds the document

    report = on_error or quarantine
    rows = _Rows()
    with progress(sum(s.size for s in sources), "scan", "B") as bar:
        for number, source in enumerate(sources):
            for document in documents(source, report, names.collection, access):
                bar.update(len(document.data))
                try:
                    product = parse(document, names)
                except DumpError as error:
                    report(error)
                    continue
                rows.add(product, number, document)
    arrays, keys, category_names = rows.finish()
    return DumpIndex(
        sources,
        tuple(rejects),
        **arrays,
        key_texts=keys.texts,
        key_type=keys.type,
        category_names=category_names,
        fields=names,
    )


class _Rows:
    """The rows of an index while its dump is scanned, in blocks of arrays."""

    def __init__(self) -> None:
        self.categories = CategoryColumn()
        self.keys: list[Sequence[Key]] = []
        self.blocks: list[dict[str, np.ndarray]] = []
        self.rows: list[tuple] = []

    def add(self, product: Product, source: int, document: Document) -> None:
        """One more product."""
        category, digest = product.category, xxhash.xxh3_64_intdigest(document.data)
        plain = type(category) is int and category >= 0
        code = category if plain and self.categories.ids else self.categories.code(category)
        found_at = (source, document.offset, len(document.data), digest)
        self.rows.append((product.key, code, len(product.images), *found_at))
        if len(self.rows) == _BLOCK:
            self._close_block()

    def _close_block(self) -> None:
        columns = zip(*self.rows, strict=True) if self.rows else [()] * len(_DTYPES)
        keys, *others = columns
        plain = all(isinstance(key, int) and 0 <= key <= MAX_PRODUCT_ID for key in keys)
        self.keys.append(np.array(keys, dtype=np.int64) if plain else keys)  # type: ignore[arg-type]
        named = zip(list(_DTYPES.items())[1:], others, strict=True)
        self.blocks.append({name: np.array(column, dtype=dtype) for (name, dtype), column in named})
        self.rows = []

    def finish(self) -> tuple[dict[str, Any], Keys, tuple[str, ...] | None]:
        """The arrays, the keys, and the names of the categories, if these are names."""
        self._close_block()
        arrays = {
            name: np.concatenate([block[name] for block in self.blocks]) for name in self.blocks[0]
        }
        arrays["category_id"], names = self.categories.finish(arrays["category_id"])
        if all(isinstance(block, np.ndarray) for block in self.keys):
            keys = Keys(np.concatenate(self.keys))
        else:
            keys = Keys.of([k if isinstance(k, str) else int(k) for b in self.keys for k in b])
        return {"product_id": keys.numbers, **arrays}, keys, names


def open_index(
    paths: Iterable[str | Path],
    folder: Path,
    names: Fields = DEFAULT,
    access: SourcesConfig = ACCESS,
) -> DumpIndex:
    """The saved index of a dump if its files are unchanged; otherwise scans the dump and saves the
    index in `folder`."""
    sources = expand(paths, access)
    first = Path(sources[0].path).name[:40]  # a name may have 255 bytes in all
    path = folder / f"{first}-{fingerprint([s.path for s in sources])}.npz"
    if path.exists():
        try:
            index = DumpIndex.load(path)
            if list(index.sources) == sources and index.fields == names:
                return index
        except ArtifactError as error:
            log.warning("%s: %s; the dump is scanned again", path, error.problem)
    index = _scan(tuple(sources), names, access=access)
    index.save(path)
    return index
