"""Idioms of numpy that several packages need: looking ids up, groups of equal neighbours, the mixer
of SplitMix64, packed texts, and npz files."""

import struct
import zipfile
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from catalog.artifacts import atomic_path, unreadable
from catalog.errors import ArtifactError

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""Step between states of SplitMix64."""
_DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""What numpy and zipfile raise on a file that was truncated, emptied or changed."""


def find_rows(ids: np.ndarray, wanted: np.ndarray, order: np.ndarray | None = None) -> np.ndarray:
    """The row of each `wanted` id, int64 [N], in `ids` [M]; -1 if it isn't there.

    `ids` are distinct, and ascending unless `order` (np.argsort of them) is given.

    >>> find_rows(np.array([3, 5, 8]), np.array([8, 4]))
    array([ 2, -1])
    """
    if not len(ids):
        return np.full(np.shape(wanted), -1, dtype=np.int64)
    ranks = np.searchsorted(ids, wanted, sorter=order).clip(max=len(ids) - 1)
    rows = ranks if order is None else order[ranks]
    return np.where(ids[rows] == wanted, rows, -1)


def starts_group(keys: np.ndarray) -> np.ndarray:
    """Whether each element of `keys` [N] differs from the one before it, bool [N]; equal keys are
    neighbours.

    >>> starts_group(np.array([7, 7, 2]))
    array([ True, False,  True])
    """
    return np.concatenate([np.ones(min(len(keys), 1), dtype=bool), keys[1:] != keys[:-1]])


def group_starts(keys: np.ndarray) -> np.ndarray:
    """First row of each group of equal neighbours in `keys` [N], int64 [groups].

    >>> group_starts(np.array([7, 7, 2]))
    array([0, 2])
    """
    return np.flatnonzero(starts_group(keys))


def mix64(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014), a bijection on uint64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def splitmix64(states: np.ndarray) -> np.ndarray:
    """The output of the generator SplitMix64 in each of these states, uint64; the next state is one
    golden gamma further."""
    return mix64(states + GOLDEN)


def write_npz(path: str | Path, **arrays: np.ndarray) -> None:
    """Writes arrays, none of objects, as an npz, atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # taken for `allow_pickle`


def read_npz(path: str | Path, step: str) -> dict[str, np.ndarray]:
    """Inverse of write_npz, never with objects. Raises ArtifactError, naming its `step`, if the
    file is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except FileNotFoundError:
        raise ArtifactError(path, "no such file", step) from None
    except _DAMAGE as error:
        raise unreadable(path, f"not readable as an npz ({error})", step, error) from error


@dataclass(frozen=True)
class PackedTexts:
    """N texts as two arrays: their bytes in UTF-8, uint8, and where each ends, int64 [N]. A tenth
    of the memory of as many str.

    >>> PackedTexts.of(["a", "bc"])[1]
    'bc'
    """

    data: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, texts: Iterable[str]) -> "PackedTexts":
        """Packs texts, one at a time."""
        data, ends = bytearray(), array("q")
        for text in texts:
            data += text.encode("utf-8", "surrogatepass")
            ends.append(len(data))
        return cls(np.frombuffer(bytes(data), dtype=np.uint8), np.array(ends, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> str:
        start = int(self.ends[row - 1]) if row else 0
        return self.data[start : int(self.ends[row])].tobytes().decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        data, start = self.data.tobytes(), 0
        for end in self.ends.tolist():
            yield data[start:end].decode("utf-8", "surrogatepass")
            start = end

    def slice(self, first: int, last: int) -> "PackedTexts":
        """The texts of rows `first` to `last` - 1, alone."""
        start, end = (int(self.ends[row - 1]) if row else 0 for row in (first, last))
        return PackedTexts(self.data[start:end], self.ends[first:last] - start)

    def take(self, rows: np.ndarray) -> "PackedTexts":
        """The texts of some rows, int64, in that order."""
        return PackedTexts.of(self[row] for row in rows.tolist())

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """As arrays of an npz. Inverse: `from_arrays`."""
        return {name: self.data, f"{name}_ends": self.ends}

    @classmethod
    def from_arrays(cls, name: str, arrays: Mapping[str, np.ndarray]) -> "PackedTexts":
        """The texts that were packed under this name. Raises KeyError or ValueError if they are
        damaged."""
        data, ends = arrays[name], arrays[f"{name}_ends"]
        if len(ends) and not (int(ends[0]) >= 0 and int(ends[-1]) == len(data)):
            raise ValueError(f"{name}: texts of {len(data)} bytes that end elsewhere")
        return cls(data, ends)
