"""Whether a source has anything for a store: asked before the store is changed, so that the wrong
source, or one whose photos all fail, costs nothing."""

import sqlite3
from collections import Counter

import numpy as np

from catalog.config import CatalogConfig
from catalog.errors import ImageError, ShelfsortError
from catalog.sources.damage import reason_counts
from catalog.sources.source import ProductSource
from catalog.store.checker import check_products
from catalog.store.schema import fetch_columns

CONFLICT = "conflicting_product"
_FIELDS = "are catalog.fields the names of the fields?"
_REMEDIES = {
    "no_picture": _FIELDS,
    "no_images": _FIELDS,
    "unreadable_file": "paths are relative to the dump or table; are the photos there?",
    "unreachable": "run the same command again when they can be reached",
    "blank": "--set catalog.drop_blank=false keeps photos that show nothing",
    "too_large": "--set catalog.max_pixels=N reads larger ones",
    "too_long": "--set catalog.max_side=null reads longer ones",
    CONFLICT: "products of the same keys with other photos are in the store, and stay; "
    "--rebuild makes the store of this source",
}
_OTHER_REMEDY = "are these the photos? docs/sources.md says what is read"


def require_usable(
    source: ProductSource,
    classes: np.ndarray,
    config: CatalogConfig,
    connection: sqlite3.Connection | None = None,
) -> None:
    """Raises ShelfsortError, with the reasons counted, if no product of a source has a photo that
    can be used.

    `classes` are the class indices of its rows, int64 [P]; -1 if a category is unknown. A product
    that the store of `connection` has already, unchanged, is usable. Photos are read up to the
    first that can be used, which is the first one of nearly every source.
    """
    rows = np.flatnonzero(classes >= 0)
    reasons = Counter(reject.reason for reject in source.rejects)
    reasons["unknown_category"] += len(classes) - len(rows)
    if connection is not None:
        rows, conflicts, known = _unknown_to(connection, source, rows)
        reasons[CONFLICT] += conflicts
        if known:
            return
    first = ""
    for row in rows.tolist():
        [checked] = check_products([source.read(row)], config)
        for image in checked:
            reason = image.reason if isinstance(image, ImageError) else image.status
            if reason == "ok":
                return
            reasons[reason] += 1
            first = first or (f" (first: {image.detail})" if isinstance(image, ImageError) else "")
    raise ShelfsortError(
        f"{source.roots[0]}: expected photos that can be used, found none in {len(source)} "
        f"products: {reason_counts(reasons.elements())}{first}; {_remedy(+reasons)}"
    )


def _unknown_to(
    connection: sqlite3.Connection, source: ProductSource, rows: np.ndarray
) -> tuple[np.ndarray, int, bool]:
    """Those of these rows that are no product of the store; how many are one with other content;
    whether any is one with the same."""
    query = "SELECT product_id, digest FROM products ORDER BY product_id"
    ids, digests = fetch_columns(connection, query, (), 2)
    numbers, content = source.keys.numbers[rows], source.digest[rows].astype(np.int64)
    there = np.isin(numbers, ids)
    row = np.searchsorted(ids, numbers[there])
    same = digests[row] == content[there]
    return rows[~there], int((~same).sum()), bool(same.any())


def _remedy(reasons: Counter[str]) -> str:
    """What helps against the commonest reason."""
    [(commonest, _)] = reasons.most_common(1) or [("", 0)]
    return _REMEDIES.get(commonest, _OTHER_REMEDY)
