"""Folders of photos as products: CATEGORY/123.jpg, A/B/CATEGORY/123.jpg, CATEGORY/PRODUCT/1.jpg.

The folders above a photo are its category, as a path `A > B`; photos that lie in no folder have
none. `123.jpg` and `123_1.jpg` are photos of one product, and so are `123_0.jpg` and `123_1.jpg`;
`Image_1.jpg` and `Image_2.jpg` are two. `train/ val/ test/` at the top are official splits.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from catalog.config import CatalogConfig, SourcesConfig
from catalog.errors import ShelfsortError
from catalog.files import ACCESS, Anchor, ListedFile, files_below, is_url, printable
from catalog.sources.dump_index import Reject
from catalog.sources.photo_list import PHOTOS, PhotoList, grouped, keyed
from catalog.sources.photo_table import About
from catalog.splits import OFFICIAL

_FURTHER = re.compile(r"(.+)_\d{1,2}")
"""A further photo's name. No more digits: IMG_0001 and IMG_0002 are two products."""
_UNPACKED = re.compile(r"\d{5}-(\d{1,18})")
"""A category's folder as `shelfsort unpack` names it: class index and id."""
_HIDDEN = ("__MACOSX",)

log = logging.getLogger(__name__)


def read_folder(folder: str, config: CatalogConfig, access: SourcesConfig = ACCESS) -> PhotoList:
    """Lists the photos below a folder. Raises ShelfsortError if there is none."""
    # Absolute paths, as workers have working folders of their own.
    root = folder if is_url(folder) else os.path.abspath(folder)
    listing = files_below(root, access)
    rejects = [Reject(printable(f.path), 0, -1, -1, f.reason, f.detail) for f in listing.lost]
    photos = [file for file in listing.files if file.relative.lower().endswith(PHOTOS)]
    photos = [file for file in photos if not is_hidden(file.relative)]
    suffixes = " ".join(PHOTOS)
    if not photos:
        raise ShelfsortError(
            f"{folder}: expected photos ({suffixes}) in this folder or below it, found none"
        )
    if others := len(listing.files) - len(photos):
        log.warning(
            "%s: ignored %d of %d files; photos are %s",
            folder,
            others,
            len(listing.files),
            suffixes,
        )
    return listed(folder, [root], photos, config, rejects, access, listing.folders)


def is_hidden(relative: str) -> bool:
    """Whether a path within a folder or archive is of what systems leave there."""
    return any(
        component.startswith(".") or component in _HIDDEN for component in relative.split("/")
    )


def listed(
    name: str,
    roots: list[str],
    files: Sequence[ListedFile],
    config: CatalogConfig,
    rejects: Sequence[Reject] = (),
    access: SourcesConfig = ACCESS,
    anchors: Sequence[Anchor] = (),
) -> PhotoList:
    """Products of files whose paths say what they are: in a folder, or in an archive."""
    once: dict[str, str] = {}  # one str per folder, not per file
    folders = [once.setdefault(f, f) for f in (os.path.dirname(file.relative) for file in files)]
    above = {folder: folder.split("/") if folder else [] for folder in once}
    splits = _splits(above.values())
    known = {folder: _about(names, splits, config) for folder, names in above.items()}
    keys = keyed(_product_names(name, [file.relative for file in files], config))
    return grouped(roots, files, keys, lambda row: known[folders[row]], rejects, access, anchors)


def _about(above: list[str], splits: bool, config: CatalogConfig) -> About:
    """What the folders above a photo say of it."""
    split = above[0] if splits and above else None
    above = above[1:] if splits else above
    above = above[:-1] if config.product_folders else above
    unpacked = _UNPACKED.fullmatch(above[-1]) if len(above) == 1 else None
    category = unpacked[1] if unpacked else " > ".join(map(printable, above))
    return About(category or None, split=split and OFFICIAL[split.lower()])


def _splits(above: Iterable[list[str]]) -> bool:
    """Whether the folders at the top are official splits."""
    top = {names[0].lower() if names else "" for names in above}
    return "train" in top and len(top) > 1 and top <= set(OFFICIAL)


def _product_names(folder: str, relative: Sequence[str], config: CatalogConfig) -> list[str]:
    """What each photo's product is called: by its folder, if each product has one, else by the
    photo's name without its number; by the whole path where names alone would join products of
    several folders."""
    stems = [os.path.splitext(path)[0] for path in relative]
    if config.product_folders:
        products = [os.path.dirname(path) for path in relative]
        if "" in products:
            raise ShelfsortError(
                f"{folder}: photo {relative[products.index('')]} lies in no folder; "
                "catalog.product_folders expects one folder per product"
            )
    else:
        products = _joined(folder, stems, config.max_joined)
    short = [product.rsplit("/", 1)[-1] for product in products]
    alone = len(set(short)) == len(set(products))
    return short if alone else products


def _joined(folder: str, stems: Sequence[str], most: int) -> list[str]:
    """The names without the numbers of further photos. Raises ShelfsortError if more than `most`
    photos would become one product."""
    present = set(stems)
    products = []
    for stem in stems:
        further = _FURTHER.fullmatch(stem)
        base = further[1] if further and most > 1 else stem
        sure = base in present or base.rsplit("/", 1)[-1].isdecimal()
        products.append(base if sure else stem)
    largest, count = Counter(products).most_common(1)[0]
    if count > most:
        raise ShelfsortError(
            f"{folder}: {count} photos, {printable(largest)}_1 and others, would be one product, "
            f"as their names differ in a number from _0 to _99 alone, expected at most {most}; "
            f"--set catalog.max_joined={count} joins them, --set catalog.max_joined=1 makes each "
            "photo a product"
        )
    return products
