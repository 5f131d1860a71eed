"""What sources say of a product's category: an id, or a name, or a path of names `A > B > C`."""

import re
from dataclasses import dataclass, field

import numpy as np

from catalog.taxonomy import Taxonomy

NONE, MALFORMED = -1, -2
"""In the place of an id: the product has no category; it has something that is none."""
_FIRST_NAME = -3
_ID = re.compile("[0-9]{1,18}")
_EXACT = 2**53
"""Doubles below this hold integers exactly; MongoDB's shell writes all numbers as doubles."""


def whole_number(value: object) -> int | None:
    """The integer that a number is, None if it is none or a bool."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else None


@dataclass
class CategoryColumn:
    """Collects categories, one row at a time, as numbers.

    column = CategoryColumn()
    codes = np.array([column.code("Shoes > Boots"), column.code(None)])
    ids, names = column.finish(codes)
    """

    names: dict[str, int] = field(default_factory=dict)
    ids: bool = False
    """Whether any category was an id."""

    def code(self, value: object) -> int:
        """A number for what a row has as its category; only `finish` can tell what it means."""
        if value is None or value == "":
            return NONE
        number = whole_number(value)
        if isinstance(value, str):
            text = " > ".join(level.strip() for level in value.split(">"))
            if not _ID.fullmatch(text):
                return _FIRST_NAME - self.names.setdefault(text, len(self.names))
            number = int(text)
        if number is None or number < 0:
            return MALFORMED
        self.ids = True
        return number

    def finish(self, codes: np.ndarray) -> tuple[np.ndarray, tuple[str, ...] | None]:
        """Ids int64 [N] of rows with these codes, and None; or, if no row has an id and some have
        names, their places in the names, and the names. A name among ids is MALFORMED."""
        named = codes <= _FIRST_NAME
        if self.ids or not named.any():
            return np.where(named, MALFORMED, codes), None
        return np.where(named, _FIRST_NAME - codes, codes), tuple(self.names)


def resolved(
    category_id: np.ndarray, names: tuple[str, ...] | None, taxonomy: Taxonomy
) -> np.ndarray:
    """Category ids of the taxonomy, int64 [N], from what a source has: ids, or places in its
    `names`. NONE and MALFORMED stay; a name that the taxonomy lacks is MALFORMED."""
    if names is None:
        return category_id
    classes = taxonomy.named(names)
    ids = np.where(classes >= 0, taxonomy.category_ids[classes], MALFORMED)
    return np.where(category_id >= 0, ids[category_id.clip(min=0)], category_id)
