"""Makes dumps in Cdiscount's format with drawn products, for the demo, the tests and the benchmarks.

A category has three level names. Siblings (of one level 2) share a silhouette and differ in pattern or proportion, and
a little in hue; families differ in silhouette. Product i follows from the seed and i alone: any product can be made
without those before it. Categories don't depend on the seed: another seed gives other products of the same categories.
Titles, where asked for, name the kind and the style of most products, of some a wrong one.
"""

import csv
import functools
import gzip
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import bson
import numpy as np

from catalog.artifacts import atomic_path, write_text
from catalog.drawing import Look, blank, encode, extremes, mislead, photograph, vary
from catalog.errors import ConfigError
from catalog.landmarks import write_landmarks
from catalog.silhouettes import FAMILIES

SIBLINGS = (4, 3, 5)  # categories of a family, by its number; at most 8, see _category_id
ID_RANGE = 99_991  # a prime, so that multiplying permutes the ids
# Of Cdiscount's products, the share with at most 1, 2, 3 and 4 images.
IMAGE_COUNTS = np.cumsum((4_369_441, 1_128_588, 542_792, 1_029_075)) / 7_069_896
# When the silhouettes are used up they come again as other families, lower or taller. From the fourth time on families
# look like earlier ones: thousands of categories serve to measure time and memory, not accuracy.
EDITIONS = (("", 1.0), ("CHILDREN'S ", 0.65), ("PROFESSIONAL ", 1.25))
# Name, pattern, pitch of the pattern, slimness, size of the characteristic detail. Neighbours are easily confused.
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

BRANDS = ("Alvar", "Belo", "Corvina", "Dantel", "Elmo", "Faro", "Gravis", "Hilde", "Isola", "Juno", "Kestrel", "Lumo", "Mirel")
FILLERS = ("new", "classic", "original", "quality", "deluxe", "gift", "home", "outdoor", "black", "white", "blue", "red", "2026")


@dataclass(frozen=True)
class SyntheticSpec:
    """What a dump holds. Raises ConfigError on values that can't be made."""

    categories: int = 24
    """Leaves of the hierarchy, three to five a family."""
    products: int = 2400
    """Documents; at least one a category."""
    side: int = 64
    """Width and height of the JPEGs, pixels."""
    seed: int = 0
    """Chooses the products; the categories stay."""
    label_noise: float = 0.02
    """Share of products whose category_id is wrong, mostly a sibling's."""
    duplicates: float = 0.02
    """Share of images that copy (the same bytes) another product's first image, mostly of the same category."""
    blanks: float = 0.005
    """Share of images of one constant colour."""
    misleading: float = 0.1
    """Share of images that show a box, a size chart or a close-up."""
    tail: float = 1.0
    """Exponent of the category sizes (Zipf); 0 makes them equal."""
    first_product_id: int = 1
    """`_id` of the first document; the others count on from it."""
    titles: bool = False
    """Documents have a `title`: noisy words, that tell something of the category; a few have none."""

    def __post_init__(self) -> None:
        for name, low in (("categories", 1), ("side", 16), ("seed", 0), ("first_product_id", 0)):
            if getattr(self, name) < low:
                raise ConfigError(f"synthetic {name}: expected at least {low}, found {getattr(self, name)}")
        for name in ("label_noise", "duplicates", "blanks", "misleading"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"synthetic {name}: expected a share from 0 to 1, found {getattr(self, name)}")
        if self.products < self.categories:
            raise ConfigError(f"synthetic products: expected at least one for each of {self.categories} categories, "
                              f"found {self.products}")
        if 8 * self.categories > ID_RANGE:
            raise ConfigError(f"synthetic categories: expected at most {ID_RANGE // 8}, found {self.categories}")


@dataclass(frozen=True)
class Category:
    """A leaf: its id, its three names, its style's name, and the look that its products vary."""

    category_id: int
    level1: str
    level2: str
    level3: str
    style: str
    look: Look


@dataclass(frozen=True)
class Plan:
    """Which product is of which category."""

    category: np.ndarray
    """int32 [products]: the true category, by its place in `categories`."""
    members: np.ndarray
    """int32 [products]: products by category, ascending within each."""
    starts: np.ndarray
    """int64 [categories + 1]: where each category's members begin."""


@functools.lru_cache(maxsize=8)
def categories(spec: SyntheticSpec) -> tuple[Category, ...]:
    """The categories in hierarchy order."""
    found: list[Category] = []
    family = 0
    while len(found) < spec.categories:
        found += [_category(family, sibling) for sibling in range(SIBLINGS[family % len(SIBLINGS)])]
        family += 1
    return tuple(found[: spec.categories])


def _category(family: int, sibling: int) -> Category:
    edition, kind = divmod(family, len(FAMILIES))
    level1, level2, silhouette = FAMILIES[kind]
    prefix, height = EDITIONS[edition % len(EDITIONS)]
    if edition >= len(EDITIONS):
        prefix = f"SERIES {edition} "
    style, pattern, pitch, slim, detail = STYLES[(5 * family + edition + sibling) % len(STYLES)]
    # "Other models" stands in many families of a real catalogue: level-3 names don't identify a category.
    level3 = "OTHER MODELS" if sibling == 1 and family % 3 != 2 else f"{level2} - {style}"
    hue = (0.37 * family + 0.13 * sibling) % 1
    look = Look(silhouette, pattern, pitch, slim, detail, hue, height)
    return Category(_category_id(family, sibling), prefix + level1, prefix + level2, level3, style, look)


def _category_id(family: int, sibling: int) -> int:
    """Ten digits, unique, and in no order that follows the hierarchy, as Cdiscount's are."""
    return 1_000_000_000 + (8 * family + sibling + 1) * 38_377 % ID_RANGE


@functools.lru_cache(maxsize=2)
def plan(spec: SyntheticSpec) -> Plan:
    """Deals the products to the categories: Zipf's sizes, at least one each, in shuffled order."""
    rank = np.argsort(np.argsort([category.category_id for category in categories(spec)]))
    weight = (rank + 1.0) ** -spec.tail
    edges = np.rint(np.cumsum(weight) / weight.sum() * (spec.products - spec.categories)).astype(np.int64)
    sizes = 1 + np.diff(edges, prepend=0)
    category = np.repeat(np.arange(spec.categories, dtype=np.int32), sizes)
    np.random.default_rng([spec.seed, spec.products]).shuffle(category)
    members = np.argsort(category, kind="stable").astype(np.int32)
    return Plan(category, members, np.concatenate([[0], np.cumsum(sizes)]))


def products(spec: SyntheticSpec) -> Iterator[dict]:
    """The documents `{"_id", "category_id", "title"?, "imgs": [{"picture"}]}`, in the order of the dump."""
    for index in range(spec.products):
        yield product(spec, index)


def product(spec: SyntheticSpec, index: int) -> dict:
    """Document number `index`, made without the others."""
    rng = np.random.default_rng([spec.seed, index])
    count = _images(rng)
    text = title(spec, index) if spec.titles else ""
    return {
        "_id": spec.first_product_id + index,
        "category_id": categories(spec)[_label(spec, index, rng)].category_id,
        **({"title": text} if text else {}),
        "imgs": [{"picture": picture(spec, index, position)} for position in range(count)],
    }


def _images(rng: np.random.Generator) -> int:
    """How many views a product has: its generator's first draw."""
    return 1 + int(np.searchsorted(IMAGE_COUNTS[:-1], rng.random(), side="right"))


def title(spec: SyntheticSpec, index: int) -> str:
    """A seller's words for a product, in any order: of its kind and its style, at times wrong ones, at times none."""
    rng = np.random.default_rng([spec.seed, index, 98])
    every, true = categories(spec), categories(spec)[plan(spec).category[index]]
    if rng.random() < 0.03:
        return ""
    other = every[rng.integers(len(every))]
    sibling = every[rng.choice([place for place, category in enumerate(every) if category.level2 == true.level2])]
    kind = rng.choice([true.level2, true.level1, other.level2, ""], p=[0.65, 0.15, 0.05, 0.15])
    style = rng.choice([true.style, sibling.style, ""], p=[0.55, 0.15, 0.3])
    words = [str(rng.choice(BRANDS)), kind, style, *rng.choice(FILLERS, rng.integers(1, 4))]
    return " ".join(rng.permutation([word.capitalize() for word in words if word]))


def _label(spec: SyntheticSpec, index: int, rng: np.random.Generator) -> int:
    """The category that the document claims."""
    every, true = categories(spec), int(plan(spec).category[index])
    if rng.random() >= spec.label_noise or len(every) == 1:
        return true
    others = [place for place in range(len(every)) if place != true]
    siblings = [place for place in others if every[place].level2 == every[true].level2]
    return int(rng.choice(siblings if siblings and rng.random() < 0.7 else others))


def picture(spec: SyntheticSpec, index: int, position: int) -> bytes:
    """The JPEG of one view of a product."""
    kind, look, rng = _view(spec, index, position)
    if kind == "blank":
        return encode(blank(rng, spec.side), 75)
    take = mislead if kind == "misleading" else photograph
    return encode(take(look, rng, spec.side), int(rng.integers(70, 96)))


def landmarks(spec: SyntheticSpec, index: int, position: int) -> np.ndarray:
    """The landmarks of that view (`drawing.extremes`), float32 [8, 3]; all 0 where it does not show the product."""
    kind, look, rng = _view(spec, index, position)
    return extremes(look, rng) if kind == "product" else np.zeros((8, 3), dtype=np.float32)


def _view(spec: SyntheticSpec, index: int, position: int) -> tuple[str, Look, np.random.Generator]:
    """What a view shows (`product`, `misleading` or `blank`), of what product, and the generator that goes on from there."""
    rng = np.random.default_rng([spec.seed, index, position])
    copied, emptied, misled = rng.random(3)
    if copied < spec.duplicates and index:
        return _view(spec, _source(spec, index, rng), 0)
    look = vary(categories(spec)[plan(spec).category[index]].look, np.random.default_rng([spec.seed, index, 99]))
    if emptied < spec.blanks:
        return "blank", look, rng
    return "misleading" if misled < spec.misleading else "product", look, rng


def _source(spec: SyntheticSpec, index: int, rng: np.random.Generator) -> int:
    """The product whose first image is copied: an earlier one, so that copies of copies come to an end."""
    deal = plan(spec)
    start, stop = deal.starts[deal.category[index]:][:2]
    earlier = int(np.searchsorted(deal.members[start:stop], index))
    if earlier and rng.random() < 0.85:
        return int(deal.members[start + rng.integers(earlier)])
    return int(rng.integers(index))


def write_dump(path: Path, spec: SyntheticSpec, *, labelled: bool = True) -> int:
    """Writes the dump to `path`, gzipped where it ends in .gz, a document at a time. Returns the number of products.

    Without `labelled` the documents have no category_id, as in a dump to be scored; write_labels has the answers.
    Needs some 20 bytes of memory a product, for the plan.
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
    """Writes category_names.csv: id and three level names, a row a category, in hierarchy order."""
    rows = [(c.category_id, c.level1, c.level2, c.level3) for c in categories(spec)]
    _write_csv(path, ("category_id", "category_level1", "category_level2", "category_level3"), rows)


def write_labels(path: Path, spec: SyntheticSpec) -> None:
    """Writes the true category (no label noise) of each product: columns _id and category_id."""
    every, true = categories(spec), plan(spec).category
    rows = [(spec.first_product_id + index, every[place].category_id) for index, place in enumerate(true)]
    _write_csv(path, ("_id", "category_id"), rows)


def write_landmarks_of(path: Path, spec: SyntheticSpec) -> None:
    """Writes the landmarks of every photo of the dump (catalog.landmarks)."""
    write_landmarks(path, (
        (spec.first_product_id + index, position, landmarks(spec, index, position))
        for index in range(spec.products)
        for position in range(_images(np.random.default_rng([spec.seed, index])))
    ))


def _write_csv(path: Path, header: tuple[str, ...], rows: list[tuple]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_text(path, text.getvalue())
