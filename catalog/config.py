"""What shapes a store: caps, cleaning rules, and the seed of the splits."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

MAX_PIXELS = 50_000_000
"""Images with more pixels are never decoded."""


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
    reserve: PositiveInt | None = None
    """The split that stage 1 never trains on and stage 2 does."""
    val_a: PositiveInt | None = None
    """The half of validation that chooses epochs and fits the class-mix shift."""
    val_b: PositiveInt | None = None
    """The half of validation that decides where stage 2 is used."""
    test: PositiveInt | None = None
    """Read by `evaluate` alone."""


class CatalogConfig(Section):
    """Section `catalog`: how a dump becomes a store."""

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
    max_pixels: int = Field(default=MAX_PIXELS, ge=1, le=MAX_PIXELS)
    """Reject images whose header declares more pixels than this."""
    text: str | None = Field(default=None, min_length=1)
    """Field of the documents that the store keeps as the product's text, such as `title`; null
    keeps none."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Key of the hash that assigns products to splits and chooses them under a cap."""
