"""Makes dumps in Cdiscount's format with drawn products, for the demo, the tests and the
benchmarks.

A category has three level names. Siblings (of one level 2) share a silhouette and differ in pattern
or proportion, and a little in hue; families differ in silhouette. Product i is a function of the
seed and i alone, so that any product can be made without those before it. Categories don't depend
on the seed: another seed gives other products of the same categories. Optional titles name the
family and the style of most products, and wrong ones of some. Optional covers are a family of books
and one of packets whose siblings differ by nothing but the words printed on them. Optional
columns are price, material and colour.
"""

import csv
import functools
import gzip
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import bson
import numpy as np

from catalog.artifacts import atomic_path, write_text
from catalog.errors import ConfigError
from catalog.landmarks import write_landmarks
from catalog.synthetic.attributes import attributes
from catalog.synthetic.drawing import Look, blank, encode, extremes, mislead, photograph, vary
from catalog.synthetic.printing import BOOK_SUBJECTS, PACKET_SUBJECTS, compose_lines
from catalog.synthetic.silhouettes import FAMILIES, book, packet

SIBLINGS = (4, 3, 5)
"""Categories of a family, by its number modulo 3; at most 8, see _category_id."""
ID_RANGE = 99_991
"""A prime, so that multiplying permutes the ids."""
IMAGE_COUNTS = np.cumsum((4_369_441, 1_128_588, 542_792, 1_029_075)) / 7_069_896
"""Share of Cdiscount's products with at most 1, 2, 3 and 4 images."""
EDITIONS = (("", 1.0), ("CHILDREN'S ", 0.65), ("PROFESSIONAL ", 1.25))
"""Prefix of the names, height. When the silhouettes are used up they come again as other families,
lower or taller. From the fourth time on families look like earlier ones: thousands of categories
are for measuring time and memory, not accuracy."""
STYLES = (
    ("PLAIN", "plain", 1.0, -0.2, 0.0),
    ("SLIM", "plain", 1.0, 1.1, 0.0),
    ("TWO-TONE", "halves", 1.0, 0.0, 0.0),
    ("STRIPED", "stripes", 1.8, 0.0, 0.0),
    ("FINE STRIPED", "stripes", 2.7, 0.0, 0.0),
    ("DIAGONAL", "diagonals", 2.4, 0.0, 0.0),
    ("CHEVRON", "chevrons", 2.4, 0.0, 0.0),
    ("DIAMOND", "diamonds", 2.2, 0.0, 0.0),
    ("CHECKED", "checks", 1.7, 0.0, 0.0),
    ("DOTTED", "dots", 2.0, 0.0, 0.0),
    ("FINE DOTTED", "dots", 3.0, 0.0, 0.0),
    ("LARGE", "plain", 1.0, -0.6, 1.0),
)
"""Name, pattern, pitch of the pattern, slimness, size of the characteristic detail. Neighbours are
easily confused."""

COVERS = {
    2: ("BOOKS", "PAPERBACKS", book, BOOK_SUBJECTS),
    5: ("GROCERIES", "PACKETS", packet, PACKET_SUBJECTS),
}
"""Number of the family that is one of printed products if the spec asks for `covers`: level 1,
level 2, silhouette, and the subject of each sibling in several languages."""
BRANDS = (
    "Alvar",
    "Belo",
    "Corvina",
    "Dantel",
    "Elmo",
    "Faro",
    "Gravis",
    "Hilde",
    "Isola",
    "Juno",
    "Kestrel",
    "Lumo",
    "Mirel",
)
FILLERS = (
    "new",
    "classic",
    "original",
    "quality",
    "deluxe",
    "gift",
    "home",
    "outdoor",
    "black",
    "white",
    "blue",
    "red",
    "2026",
)


@dataclass(frozen=True)
class SyntheticSpec:
    """What a dump holds. Raises ConfigError on impossible values."""

    categories: int = 24
    """Leaves of the hierarchy, three to five per family."""
    products: int = 2400
    """Documents; at least one per category."""
    side: int = 64
    """Width and height of the JPEGs, pixels."""
    seed: int = 0
    """Determines the products; the categories are the same."""
    label_noise: float = 0.02
    """Share of products with a wrong category_id, mostly a sibling's."""
    duplicates: float = 0.02
    """Share of images that are copies (the same bytes) of another product's first image, mostly of
    the same category."""
    blanks: float = 0.005
    """Share of images of one constant colour."""
    misleading: float = 0.1
    """Share of images that show a box, a size chart or a close-up."""
    tail: float = 1.0
    """Exponent of the category sizes (Zipf); 0 makes them equal."""
    first_product_id: int = 1
    """`_id` of the first document; the others count on from it."""
    titles: bool = False
    """Give documents a `title`: noisy words that tell something about the category; a few have
    none."""
    covers: bool = False
    """Make the families in COVERS (ten categories of 24) books and packets whose siblings differ by
    printed words only; these take photos of 128 pixels or more to be read."""
    columns: bool = False
    """Give documents the fields of `attributes.ATTRIBUTES`; some are missing."""

    def __post_init__(self) -> None:
        for name, low in (("categories", 1), ("side", 16), ("seed", 0), ("first_product_id", 0)):
            if getattr(self, name) < low:
                raise ConfigError(
                    f"synthetic {name}: expected at least {low}, found {getattr(self, name)}"
                )
        for name in ("label_noise", "duplicates", "blanks", "misleading"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"synthetic {name}: expected a share from 0 to 1, found {getattr(self, name)}"
                )
        if self.products < self.categories:
            raise ConfigError(
                "synthetic products: expected at least one for each of "
                f"{self.categories} categories, found {self.products}"
            )
        if 8 * self.categories > ID_RANGE:
            raise ConfigError(
                f"synthetic categories: expected at most {ID_RANGE // 8}, found {self.categories}"
            )


@dataclass(frozen=True)
class DrawnCategory:
    """A leaf as it is drawn: its id, three names, the name of its style, the look that its products
    vary, and the word that is printed on them, in several languages."""

    category_id: int
    level1: str
    level2: str
    level3: str
    style: str
    look: Look
    subject: tuple[str, ...] = ()


@dataclass(frozen=True)
class Assignment:
    """The category of each product."""

    category: np.ndarray
    """int32 [products]: the true category, as an index into `categories`."""
    members: np.ndarray
    """int32 [products]: products by category, ascending within each."""
    starts: np.ndarray
    """int64 [categories + 1]: where each category's `members` begin."""


@functools.lru_cache(maxsize=8)
def categories(spec: SyntheticSpec) -> tuple[DrawnCategory, ...]:
    """The categories in hierarchy order."""
    leaves: list[DrawnCategory] = []
    family = 0
    while len(leaves) < spec.categories:
        siblings = SIBLINGS[family % len(SIBLINGS)]
        make = _printed if spec.covers and family in COVERS else _category
        leaves += [make(family, sibling) for sibling in range(siblings)]
        family += 1
    return tuple(leaves[: spec.categories])


def _category(family: int, sibling: int) -> DrawnCategory:
    edition, number = divmod(family, len(FAMILIES))
    level1, level2, silhouette = FAMILIES[number]
    prefix, height = EDITIONS[edition % len(EDITIONS)]
    if edition >= len(EDITIONS):
        prefix = f"SERIES {edition} "
    style, pattern, pitch, slim, detail = STYLES[(5 * family + edition + sibling) % len(STYLES)]
    # As in real catalogues, level-3 names don't identify a category: many are "Other models".
    level3 = "OTHER MODELS" if sibling == 1 and family % 3 != 2 else f"{level2} - {style}"
    hue = (0.37 * family + 0.13 * sibling) % 1
    look = Look(silhouette, pattern, pitch, slim, detail, hue, height)
    return DrawnCategory(
        _category_id(family, sibling), prefix + level1, prefix + level2, level3, style, look
    )


def _printed(family: int, sibling: int) -> DrawnCategory:
    """A category of books or packets: only its subject is its own."""
    level1, level2, silhouette, subjects = COVERS[family]
    subject = subjects[sibling]
    style = subject[0].upper()
    look = Look(silhouette, "plain", 1.0, 0.0, 0.0, (0.37 * family) % 1)
    category_id, level3 = _category_id(family, sibling), f"{level2} - {style}"
    return DrawnCategory(category_id, level1, level2, level3, style, look, subject)


def _category_id(family: int, sibling: int) -> int:
    """Ten digits, unique, in an order unrelated to the hierarchy, as Cdiscount's are."""
    return 1_000_000_000 + (8 * family + sibling + 1) * 38_377 % ID_RANGE


@functools.lru_cache(maxsize=2)
def assign(spec: SyntheticSpec) -> Assignment:
    """Assigns the products to the categories: Zipf's sizes, at least one each, in shuffled
    order."""
    rank = np.argsort(np.argsort([category.category_id for category in categories(spec)]))
    weight = (rank + 1.0) ** -spec.tail
    edges = np.rint(np.cumsum(weight) / weight.sum() * (spec.products - spec.categories)).astype(
        np.int64
    )
    sizes = 1 + np.diff(edges, prepend=0)
    category = np.repeat(np.arange(spec.categories, dtype=np.int32), sizes)
    np.random.default_rng([spec.seed, spec.products]).shuffle(category)
    members = np.argsort(category, kind="stable").astype(np.int32)
    return Assignment(category, members, np.concatenate([[0], np.cumsum(sizes)]))


def products(spec: SyntheticSpec) -> Iterator[dict]:
    """The documents `{"_id", "category_id", "title"?, "price"?, "material"?, "colour"?, "imgs":
    [{"picture"}]}`, in the order of the dump."""
    for index in range(spec.products):
        yield product(spec, index)


def product(spec: SyntheticSpec, index: int) -> dict:
    """Document number `index`, without making the others."""
    rng = np.random.default_rng([spec.seed, index])
    count = _images(rng)
    text = title(spec, index) if spec.titles else ""
    return {
        "_id": spec.first_product_id + index,
        "category_id": categories(spec)[_label(spec, index, rng)].category_id,
        **({"title": text} if text else {}),
        **(columns(spec, index) if spec.columns else {}),
        "imgs": [{"picture": picture(spec, index, position)} for position in range(count)],
    }


def _images(rng: np.random.Generator) -> int:
    """The number of a product's views: its generator's first draw."""
    return 1 + int(np.searchsorted(IMAGE_COUNTS[:-1], rng.random(), side="right"))


def title(spec: SyntheticSpec, index: int) -> str:
    """A seller's words for a product, in any order: its family and style, sometimes wrong ones,
    sometimes none."""
    rng = np.random.default_rng([spec.seed, index, 98])
    every, true = categories(spec), categories(spec)[assign(spec).category[index]]
    if rng.random() < 0.03:
        return ""
    other = every[rng.integers(len(every))]
    siblings = [i for i, category in enumerate(every) if category.level2 == true.level2]
    sibling = every[rng.choice(siblings)]
    family = rng.choice([true.level2, true.level1, other.level2, ""], p=[0.65, 0.15, 0.05, 0.15])
    style = rng.choice([true.style, sibling.style, ""], p=[0.55, 0.15, 0.3])
    words = [str(rng.choice(BRANDS)), family, style, *rng.choice(FILLERS, rng.integers(1, 4))]
    return " ".join(rng.permutation([word.capitalize() for word in words if word]))


def columns(spec: SyntheticSpec, index: int) -> dict[str, float | str]:
    """A product's columns."""
    true = categories(spec)[assign(spec).category[index]]
    rng = np.random.default_rng([spec.seed, index, 96])
    return attributes(true.category_id, look_of(spec, index).hue, rng)


def _label(spec: SyntheticSpec, index: int, rng: np.random.Generator) -> int:
    """The category that the document claims."""
    every, true = categories(spec), int(assign(spec).category[index])
    if rng.random() >= spec.label_noise or len(every) == 1:
        return true
    others = [i for i in range(len(every)) if i != true]
    siblings = [i for i in others if every[i].level2 == every[true].level2]
    return int(rng.choice(siblings if siblings and rng.random() < 0.7 else others))


def picture(spec: SyntheticSpec, index: int, position: int) -> bytes:
    """The JPEG of one view of a product."""
    shown, look, rng = _view(spec, index, position)
    if shown == "blank":
        return encode(blank(rng, spec.side), 75)
    take = mislead if shown == "misleading" else photograph
    return encode(take(look, rng, spec.side), int(rng.integers(70, 96)))


def landmarks(spec: SyntheticSpec, index: int, position: int) -> np.ndarray:
    """The landmarks of that view (`drawing.extremes`), float32 [8, 3]; all 0 if it doesn't show the
    product."""
    shown, look, rng = _view(spec, index, position)
    return extremes(look, rng) if shown == "product" else np.zeros((8, 3), dtype=np.float32)


def _view(spec: SyntheticSpec, index: int, position: int) -> tuple[str, Look, np.random.Generator]:
    """What a view shows (`product`, `misleading` or `blank`), the product's look, and the generator
    for all further draws."""
    rng = np.random.default_rng([spec.seed, index, position])
    copied, emptied, misled = rng.random(3)
    if copied < spec.duplicates and index:
        return _view(spec, _source(spec, index, rng), 0)
    look = look_of(spec, index)
    if emptied < spec.blanks:
        return "blank", look, rng
    return "misleading" if misled < spec.misleading else "product", look, rng


def look_of(spec: SyntheticSpec, index: int) -> Look:
    """A product's own look, with what is printed on it."""
    category = categories(spec)[assign(spec).category[index]]
    look = vary(category.look, np.random.default_rng([spec.seed, index, 99]))
    if not category.subject:
        return look
    rng = np.random.default_rng([spec.seed, index, 97])
    return replace(look, lines=compose_lines(category.subject, BRANDS, FILLERS, rng))


def _source(spec: SyntheticSpec, index: int, rng: np.random.Generator) -> int:
    """The product whose first image is copied: an earlier one, so that chains of copies end."""
    dealt = assign(spec)
    start, stop = dealt.starts[dealt.category[index] :][:2]
    earlier = int(np.searchsorted(dealt.members[start:stop], index))
    if earlier and rng.random() < 0.85:
        return int(dealt.members[start + rng.integers(earlier)])
    return int(rng.integers(index))


def write_dump(path: Path, spec: SyntheticSpec, *, labelled: bool = True) -> int:
    """Writes the dump to `path`, one document at a time, gzipped if the name ends in .gz. Returns
    the number of products.

    Unless `labelled`, the documents have no category_id, as in a dump to be scored; write_labels
    writes the answers. Needs about 20 bytes of memory per product, for the plan.

        write_dump(Path("train.bson"), SyntheticSpec(products=500, categories=12))
    """
    with atomic_path(path) as temporary, open(temporary, "wb") as raw:
        # No name and no time in the gzip header: the same spec gives the same bytes.
        zipped = gzip.GzipFile("", "wb", 6, raw, mtime=0) if Path(path).suffix == ".gz" else None
        sink = zipped or raw
        for document in products(spec):
            if not labelled:
                del document["category_id"]
            sink.write(bson.encode(document))
        if zipped:
            zipped.close()
    return spec.products


def write_categories(path: Path, spec: SyntheticSpec) -> None:
    """Writes category_names.csv: id and three level names, one row per category, in hierarchy
    order."""
    rows = [(c.category_id, c.level1, c.level2, c.level3) for c in categories(spec)]
    _write_csv(path, ("category_id", "category_level1", "category_level2", "category_level3"), rows)


def write_labels(path: Path, spec: SyntheticSpec) -> None:
    """Writes the true category (without label noise) of each product: columns _id, category_id."""
    every, true = categories(spec), assign(spec).category
    rows = [
        (spec.first_product_id + index, every[class_index].category_id)
        for index, class_index in enumerate(true)
    ]
    _write_csv(path, ("_id", "category_id"), rows)


def write_landmarks_of(path: Path, spec: SyntheticSpec) -> None:
    """Writes the landmarks of every photo of the dump, as catalog.landmarks reads them."""
    write_landmarks(
        path,
        (
            (spec.first_product_id + index, position, landmarks(spec, index, position))
            for index in range(spec.products)
            for position in range(_images(np.random.default_rng([spec.seed, index])))
        ),
    )


def _write_csv(path: Path, header: tuple[str, ...], rows: list[tuple]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_text(path, text.getvalue())
