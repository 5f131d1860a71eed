"""What shapes a store: caps, cleaning rules, and the seed of the splits."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

MAX_PIXELS, MOST_PIXELS = 50_000_000, 500_000_000
"""Images with more pixels are not decoded, unless `catalog.max_pixels` allows it; never those with
more than the latter, which are 1.5 GB."""


class Section(BaseModel):
    """Base of every section of the configuration: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class Caps(Section):
    """Maximum images per category in each split; null is no limit. Whole products are taken, in the
    order of their hash."""

    train: PositiveInt | None = None
    """The published system takes 300."""
    extra: NonNegativeInt | None = 0
    """The split of what the cap of train cuts: stage 2's experts are fitted on it too, stage 1
    never reads it. By default nothing of it is kept."""
    reserve: PositiveInt | None = None
    """The split that stage 1 never trains on and stage 2 does."""
    val_a: PositiveInt | None = None
    """The half of validation that chooses epochs and fits the class-mix shift."""
    val_b: PositiveInt | None = None
    """The half of validation that decides where stage 2 is used."""
    test: PositiveInt | None = None
    """Read by `evaluate` alone."""


class Fields(Section):
    """Names of the fields that make a document a product; dots lead into nested ones."""

    id: str = Field(default="_id", min_length=1)
    """The product's key: an integer, text, ObjectId or UUID."""
    category: str = Field(default="category_id", min_length=1)
    """Its category: an id, a name, or a path `A > B > C`."""
    images: str = Field(default="imgs", min_length=1)
    """The list of its photos."""
    picture: str | None = "picture"
    """Field of a photo that holds the picture; null if the element of the list is the picture."""
    picture_is: Literal["bytes", "path"] = "bytes"
    """`path` reads pictures that are URLs, or paths relative to the dump's folder."""
    collection: str | None = None
    """Of a mongodump of several collections: the one with the products."""


class TableColumns(Section):
    """Names of a table's columns; null takes the first of the usual names that it has."""

    product: str | None = None
    """The product's key: product_id, _id, id, sku or name; without it each photo is a product."""
    image: str | None = None
    """Its photos: path, url, image, images, photo, photos, image_url or file_name."""
    category: str | None = None
    """Its category: category_id, category, category_path or label."""
    split: str | None = None
    """Its official split, `train`, `val` or `test`: split."""
    group: str | None = None
    """What keeps it with others in one split, such as a seller: group."""


class SourcesConfig(Section):
    """Section `sources`: how photos, and files behind URLs, are read."""

    headers: dict[str, str] = {}
    """Sent with every request over http, such as `{Authorization: Bearer $TOKEN}`; `$NAME` is
    taken from the environment, so that no file of the run holds the secret. They go to every server
    that the source names."""
    seconds: float = Field(default=30, gt=0)
    """Longest time that a photo behind a URL may take."""
    max_mb: PositiveInt = 64
    """Largest photo file that is read, in MB (10^6 bytes)."""

    @property
    def max_bytes(self) -> int:
        """`max_mb` in bytes."""
        return self.max_mb * 10**6


class CatalogConfig(Section):
    """Section `catalog`: how products become a store."""

    caps: Caps = Caps()
    """Maximum images per category in each split."""
    duplicates: Literal["drop", "keep"] = "drop"
    """`drop` fits identical images once, in the split that has precedence; `keep` is for comparison
    with published figures alone."""
    drop_undecodable: bool = True
    """Reject images that can't be decoded. If false, the store keeps their bytes, marked; they are
    never fitted or scored."""
    drop_blank: bool = True
    """Leave nearly constant images out of fitting and evaluation."""
    max_side: PositiveInt | None = None
    """Reject images whose longer side has more pixels than this; null rejects none."""
    max_pixels: int = Field(default=MAX_PIXELS, ge=1, le=MOST_PIXELS)
    """Reject images whose header declares more pixels than this, here and in scoring; decoding one
    takes three bytes of memory per pixel and process."""
    text: str | None = Field(default=None, min_length=1)
    """Field of the documents that the store keeps as the product's text, such as `title`; null
    keeps none."""
    columns: tuple[str, ...] = ()
    """Fields of the documents, or columns of the table, that the store keeps beside each product:
    numbers, texts, dates, such as `[brand, price]`."""
    fields: Fields = Fields()
    """What the fields of a dump's documents are called."""
    table: TableColumns = TableColumns()
    """What the columns of a table are called."""
    groups: Path | None = None
    """CSV key,group: products of one group, such as a seller's or a session's, are dealt to one
    split together; a table may have a column instead."""
    max_joined: PositiveInt = 16
    """In folders: photos whose names differ in a number at the end (`123.jpg`, `123_1.jpg`) are one
    product; more of them than this are an error, and 1 joins none."""
    product_folders: bool = False
    """In folders: each folder of photos is one product, and the folder above it its category."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Key of the hash that assigns products to splits and chooses them under a cap."""

    def shape(self) -> dict[str, Any]:
        """What shapes a store, as plain values; how its products were read doesn't."""
        reading = {"fields", "table", "groups", "max_joined", "product_folders"}
        return self.model_dump(mode="json", exclude=reading)
