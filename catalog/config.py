"""What shapes a store: caps, cleaning rules, and the seed of the splits."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

MAX_PIXELS = 50_000_000
"""Larger images are decoded nowhere."""


class Section(BaseModel):
    """Base of every part of the configuration: unknown keys are errors and values don't change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class Caps(Section):
    """Most images of one category in each split; null is no limit. Whole products are taken, in the
    order of their hash."""

    train: PositiveInt | None = None
    """The published system takes 300."""
    reserve: PositiveInt | None = None
    """Images that stage 1 never trains on and stage 2 does."""
    val_a: PositiveInt | None = None
    """The half of validation that chooses epochs and fits the class-mix shift."""
    val_b: PositiveInt | None = None
    """The half of validation that decides where stage 2 is used."""
    test: PositiveInt | None = None
    """Read by `evaluate` alone."""


class CatalogConfig(Section):
    """Section `catalog`: how a dump becomes a store."""

    caps: Caps = Caps()
    """Most images of one category in each split."""
    duplicates: Literal["drop", "keep"] = "drop"
    """`drop` fits identical images once, on the side that has precedence; `keep` only to compare
    with published figures."""
    drop_undecodable: bool = True
    """Reject images that can't be decoded; false keeps their bytes in the store, marked, and never
    fits or scores them."""
    drop_blank: bool = True
    """Leave near-constant pictures out of fitting and evaluation."""
    max_side: PositiveInt | None = None
    """Reject images whose longer side has more pixels than this; null rejects none."""
    max_pixels: int = Field(default=MAX_PIXELS, ge=1, le=MAX_PIXELS)
    """Reject, from the header, images that declare more pixels than this."""
    text: str | None = Field(default=None, min_length=1)
    """Field of the documents that the store keeps as the product's text, such as its title; null
    keeps none."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Key of the hash that deals products to splits and chooses them under a cap."""
