"""A shop's own keys, and the numbers that stand for them.

Image ids, splits and samples need a number for each product: integer keys from 0 to MAX_PRODUCT_ID
are that number themselves; for any other key it is a hash of the key's text, the same from whatever
source the key comes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import xxhash

from catalog.image_table import MAX_PRODUCT_ID

Key = int | str
KeyType = Literal["int", "text"]
"""What a catalogue's keys are; those of one are all of one type."""


@dataclass(frozen=True)
class Keys:
    """The keys of N products. `numbers` int64 [N] stand for them; `texts` are the keys as text,
    None if the numbers are the keys themselves.

    >>> Keys.of(["shoe 7", "shoe 8"])[0]
    'shoe 7'
    """

    numbers: np.ndarray
    texts: tuple[str, ...] | None = None
    type: KeyType = "int"

    @classmethod
    def of(cls, keys: Sequence[Key], known: Mapping[str, int] | None = None) -> "Keys":
        """Keys as they were read: integers if all are, else texts. `known` has the numbers that
        texts have already."""
        integers = all(isinstance(key, int) for key in keys)
        if integers and all(0 <= key <= MAX_PRODUCT_ID for key in keys):  # type: ignore[operator]
            return cls(np.array(keys, dtype=np.int64))
        texts = tuple(map(str, keys))
        dealt = dict(known or {})
        if integers:
            plain = (int(key) for key in keys)
            dealt |= {str(key): key for key in plain if 0 <= key <= MAX_PRODUCT_ID}
        return cls(deal_numbers(texts, dealt), texts, "int" if integers else "text")

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, row: int) -> Key:
        return int(self.numbers[row]) if self.texts is None else self.typed(self.texts[row])

    def __iter__(self) -> Iterator[Key]:
        return map(self.__getitem__, range(len(self)))

    def typed(self, text: str) -> Key:
        """A key as this catalogue has it, from its text."""
        return int(text) if self.type == "int" else text

    def slice(self, rows: slice) -> "Keys":
        """The keys of some rows."""
        texts = None if self.texts is None else self.texts[rows]
        return replace(self, numbers=self.numbers[rows], texts=texts)

    def of_type(self, key_type: KeyType, known: Mapping[str, int]) -> "Keys":
        """The same keys in a catalogue of keys of this type, in which some texts have numbers
        already. Raises ValueError if they are texts and the catalogue's are integers."""
        if key_type == "int" and self.type == "text":
            raise ValueError("texts among integers")
        if key_type == "text" and self.type == "int":
            texts = tuple(map(str, self))
            return Keys(deal_numbers(texts, known), texts, "text")
        if self.texts is None or not known:
            return self
        return Keys.of(list(self), known)


def as_keys(texts: Sequence[str]) -> Sequence[Key]:
    """Keys of a source that has text alone, such as names of files: integers if all of them are
    written as an integer of 64 bits is, without leading zeros."""
    for text in texts:
        if not (text.isascii() and text.isdecimal() and len(text) <= 18):
            return texts
        if text[0] == "0" and len(text) > 1:
            return texts
    return list(map(int, texts))


def deal_numbers(texts: Sequence[str], known: Mapping[str, int]) -> np.ndarray:
    """A number for each key, int64 [N], equal for equal keys and distinct for distinct ones.

    It is the key's hash, whatever the order and the other keys are; of keys with the same hash, of
    which a catalogue of 7 million has one in twenty times, the later in the alphabet are hashed
    again.
    """
    numbers = np.array([known.get(text, -1) for text in texts], dtype=np.int64)
    fresh = np.flatnonzero(numbers < 0).tolist()
    numbers[fresh] = [_hash(texts[row], 0) for row in fresh]
    distinct, first = np.unique(numbers[fresh], return_index=True)
    taken = np.fromiter(known.values(), dtype=np.int64, count=len(known))
    unsure = set(distinct[np.isin(distinct, taken)].tolist())
    owner = {int(n): texts[fresh[row]] for n, row in zip(distinct, first, strict=True)}
    unsure |= {int(numbers[row]) for row in fresh if owner[int(numbers[row])] != texts[row]}
    if unsure:
        again = {texts[row] for row in fresh if int(numbers[row]) in unsure}
        dealt = _rehashed(sorted(again), set(taken.tolist()) | (set(distinct.tolist()) - unsure))
        for row in fresh:
            numbers[row] = dealt.get(texts[row], numbers[row])
    return numbers


def _rehashed(texts: Sequence[str], taken: set[int]) -> dict[str, int]:
    dealt: dict[str, int] = {}
    for text in texts:
        salt = 0
        while (number := _hash(text, salt)) in taken:
            salt += 1
        taken.add(number)
        dealt[text] = number
    return dealt


def _hash(text: str, salt: int) -> int:
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"), salt) & MAX_PRODUCT_ID
