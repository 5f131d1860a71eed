"""Photos by reference, and what a source says of products beside their photos: tables in columns,
as a million rows of Python objects would take a gigabyte."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from catalog.arrays import PackedTexts
from catalog.files import ListedFile, Span
from catalog.sources.plain import plain
from catalog.splits import OFFICIAL

_KINDS = ("", "stored", "deflated", "cell")
_WHOLE = Span("stored", 0, 0)
_SPLITS = ("", *dict.fromkeys(OFFICIAL.values()))


@dataclass(frozen=True, slots=True)
class About:
    """What a source says of a product beside its photos, by its first row."""

    category: object = None
    text: str = ""
    split: str | None = None
    group: str | None = None
    fields: Mapping[str, Any] | None = None


class _Columns:
    """A table that consists of packed texts and arrays of one length, and `column`."""

    def slice(self, first: int, last: int) -> Any:
        """The rows `first` to `last` - 1."""
        return self._each(
            lambda c: c.slice(first, last) if isinstance(c, PackedTexts) else c[first:last]
        )

    def take(self, rows: np.ndarray) -> Any:
        """Some rows, int64, in that order."""
        return self._each(lambda c: c.take(rows) if isinstance(c, PackedTexts) else c[rows])

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """As arrays of an npz. Inverse: `from_arrays`."""
        out: dict[str, np.ndarray] = {}
        for field in fields(self):  # type: ignore[arg-type]
            value, name = getattr(self, field.name), f"{prefix}.{field.name}"
            out |= value.arrays(name) if isinstance(value, PackedTexts) else {name: value}
        return out

    @classmethod
    def from_arrays(cls, prefix: str, arrays: Mapping[str, np.ndarray]) -> Any:
        """The table of this prefix. Raises KeyError or ValueError if it is damaged."""
        columns = {}
        for field in fields(cls):  # type: ignore[arg-type]
            name = f"{prefix}.{field.name}"
            packed = f"{name}_ends" in arrays
            columns[field.name] = PackedTexts.from_arrays(name, arrays) if packed else arrays[name]
        return cls(**columns)

    def _each(self, change: Any) -> Any:
        columns = {f.name: change(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]
        return type(self)(**columns)


@dataclass(frozen=True)
class PhotoTable(_Columns):
    """N photos. `size` is -1 if it is unknown, `kind` the number of the span's kind, `column` a
    cell's; int64 [N] each."""

    names: PackedTexts
    paths: PackedTexts
    size: np.ndarray
    stamp: np.ndarray
    kind: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    column: PackedTexts

    @classmethod
    def of(cls, files: Sequence[ListedFile]) -> "PhotoTable":
        """A table of photos as they were listed."""
        spans = [file.span or _WHOLE for file in files]
        kinds = [_KINDS.index(file.span.kind) if file.span else 0 for file in files]
        return cls(
            PackedTexts.of(file.relative for file in files),
            PackedTexts.of(file.path for file in files),
            np.array([-1 if f.size is None else f.size for f in files], dtype=np.int64),
            np.array([file.stamp for file in files], dtype=np.int64),
            np.array(kinds, dtype=np.int64),
            np.array([span.offset for span in spans], dtype=np.int64),
            np.array([span.length for span in spans], dtype=np.int64),
            PackedTexts.of(span.column for span in spans),
        )

    def __len__(self) -> int:
        return len(self.size)

    def __getitem__(self, row: int) -> ListedFile:
        size, code = int(self.size[row]), int(self.kind[row])
        extent = int(self.offset[row]), int(self.length[row]), self.column[row]
        return ListedFile(
            self.names[row],
            self.paths[row],
            None if size < 0 else size,
            int(self.stamp[row]),
            Span(_KINDS[code], *extent) if code else None,  # type: ignore[arg-type]
        )


@dataclass(frozen=True)
class AboutTable(_Columns):
    """What a source says of N products, but for their categories: `text`, the number of the
    official `split`, `group` (empty if there is none), further `fields` as JSON."""

    text: PackedTexts
    split_number: np.ndarray
    group: PackedTexts
    fields: PackedTexts

    @classmethod
    def of(cls, known: Sequence[About]) -> "AboutTable":
        """A table of what is known of each product."""
        return cls(
            PackedTexts.of(one.text for one in known),
            np.array([_SPLITS.index(one.split or "") for one in known], dtype=np.int64),
            PackedTexts.of(one.group or "" for one in known),
            PackedTexts.of(_json(one.fields) for one in known),
        )

    def split(self, row: int) -> str | None:
        """The official split of a product."""
        return _SPLITS[int(self.split_number[row])] or None

    def values(self, row: int, names: Sequence[str]) -> list[Any]:
        """Further fields of a product, as `plain` has them; None if it has none of a name."""
        further = json.loads(self.fields[row] or "{}")
        return [further.get(name) for name in names]


def _json(values: Mapping[str, Any] | None) -> str:
    if not values:
        return ""
    return json.dumps({name: plain(value) for name, value in values.items()}, ensure_ascii=False)
