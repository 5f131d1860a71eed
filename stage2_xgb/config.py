"""What shapes the second stage."""

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt

from catalog.config import Section


class ConfusionConfig(Section):
    """Section `stage2.confusion`: which categories a reclassifier chooses between."""

    rule: Literal["heldout", "published", "candidates"] = "heldout"
    """`heldout` counts mistakes on what stage 1 never saw (reserve, val_a, extra); `published` asks
    for `min_count` in train and again in validation; `candidates` counts on the same as `heldout`
    what is among the `top` likeliest, mistake or not."""
    min_count: PositiveInt = 2
    """Mistakes (t taken for c) that put t into the set of c; items taken for c with t among their
    likeliest."""
    top: int = Field(default=3, ge=2, le=32)
    """For rule `candidates`: how many of an item's likeliest categories count."""
    max_size: int = Field(default=12, ge=2)
    """Largest set, the category itself included; the commonest mistakes stay."""


class BoosterConfig(Section):
    """Section `stage2.booster`: one XGBoost reclassifier."""

    max_depth: PositiveInt = 3
    """Depth of a tree."""
    n_estimators: PositiveInt = 10
    """Boosting rounds."""
    learning_rate: float = Field(default=0.2, gt=0, le=1)
    """Shrinkage of each round."""
    subsample: float = Field(default=0.8, gt=0, le=1)
    """Share of the rows that a round sees."""
    colsample_bytree: float = Field(default=0.5, gt=0, le=1)
    """Share of the inputs that a round sees."""
    reg_lambda: float = Field(default=5.0, ge=0)
    """L2 penalty on leaf values."""
    min_child_weight: float = Field(default=2.0, ge=0)
    """Least hessian in a leaf."""
    max_bin: int = Field(default=16, ge=2)
    """Histogram bins of an input: 16 are as good as 64 on a few hundred rows, and trained in half
    the time."""


class Stage2Config(Section):
    """Section `stage2`: the pool of experts, the reclassifiers, and the class mix that these and
    stage 1 answer for."""

    target_prior: Literal["natural", "balanced", "train"] | Path = "natural"
    """Class mix of the catalogue to be scored; a path names a CSV category_id,weight."""
    pool: bool = True
    """Weigh stage 1 with discriminants, a logistic regression and neighbours; without, stage 1's
    adjusted opinion is what reclassifiers start from."""
    confusion: ConfusionConfig = ConfusionConfig()
    """How sets of confusable categories are found."""
    booster: BoosterConfig = BoosterConfig()
    """The reclassifiers."""
    components: PositiveInt | None = 64
    """Principal components of the bottleneck features that reclassifiers see; null takes all
    features as they are."""
    rows: Literal["heldout", "train"] = "heldout"
    """What reclassifiers learn from: rows that stage 1 never saw, or those it was fitted on."""
    base_margin: bool = True
    """Start from the opinion before, and have it as an input; else the features are the only
    inputs."""
    gate: bool = True
    """Use a reclassifier only if it gains on held-out products."""
    max_rows_per_class: PositiveInt = 1000
    """Rows of one class that a reclassifier learns from, at most."""
    published: bool = False
    """Also train the published second stage on the same features, for comparison in `evaluate`; it
    takes far longer."""
    seed: int = Field(default=0, ge=0)
    """Seed of folds, of sampling within XGBoost and of the projection's sample."""
