"""What shapes the second stage."""

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from catalog.config import Section


class ConfusionConfig(Section):
    """Section `stage2.confusion`: which categories a reclassifier chooses between."""

    rule: Literal["heldout", "published", "candidates"] = "heldout"
    """`heldout` counts mistakes on reserve and val_a; `published` asks for `min_count` in train and
    again in validation; `candidates` counts on reserve and val_a what is among the `top` likeliest,
    mistake or not."""
    min_count: PositiveInt = 2
    """Mistakes (t taken for c) that put t into the set of c; items taken for c with t among their
    likeliest."""
    top: int = Field(default=3, ge=2, le=32)
    """Of rule `candidates`: likeliest categories of an item that count."""
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


class RerankConfig(Section):
    """Section `stage2.rerank`: the reranker that all categories share."""

    use: bool = True
    """Train it, and use it where val_b says that it gains."""
    candidates: int = Field(default=10, ge=2, le=32)
    """Likeliest categories of an item that it chooses between."""
    max_depth: PositiveInt = 3
    """Depth of a tree."""
    n_estimators: PositiveInt = 60
    """Boosting rounds."""
    learning_rate: float = Field(default=0.1, gt=0, le=1)
    """Shrinkage of each round."""
    subsample: float = Field(default=0.8, gt=0, le=1)
    """Share of the pairs that a round sees."""
    colsample_bytree: float = Field(default=0.5, gt=0, le=1)
    """Share of the inputs that a round sees."""
    reg_lambda: float = Field(default=1.0, ge=0)
    """L2 penalty on leaf values."""
    min_child_weight: float = Field(default=1.0, ge=0)
    """Least hessian in a leaf."""


class Stage2Config(Section):
    """Section `stage2`: the reclassifiers, and the class mix that they and stage 1 answer for."""

    target_prior: Literal["natural", "balanced", "train"] | Path = "natural"
    """Class mix of the catalogue to be scored; a path names a CSV category_id,weight."""
    confusion: ConfusionConfig = ConfusionConfig()
    """How sets of confusable categories are found."""
    model: Literal["xgboost", "logistic", "neighbours", "prototypes"] = "xgboost"
    """What a reclassifier is; the others are there to be compared with."""
    booster: BoosterConfig = BoosterConfig()
    """The reclassifiers, where they are XGBoost models."""
    rerank: RerankConfig = RerankConfig()
    """The reranker that all categories share."""
    pooling: Literal["mean", "weighted"] = "weighted"
    """How images make a product: `weighted` counts those more that stage 1 is surer of, as far as
    that helps on val_a."""
    components: PositiveInt | None = 64
    """Principal components of the bottleneck features that stage 2 sees; null takes the features as
    they are."""
    rows: Literal["heldout", "train", "both"] = "both"
    """What reclassifiers learn from: rows that stage 1 never saw, those it was fitted on, or both.
    """
    seen_weight: float = Field(default=0.3, ge=0)
    """Weight of a row that stage 1 was fitted on, where a row that it never saw has 1."""
    seen_until: NonNegativeInt = 100
    """Of `both`: rows that stage 1 was fitted on join in until a class has this many."""
    base_margin: bool = True
    """Start from stage 1's log-probabilities, and see what speaks for each member; without,
    features alone are seen."""
    gate: bool = True
    """Use a reclassifier only where val_b says that it gains."""
    gate_prior: PositiveFloat = 20.0
    """Products' worth of the overall gain that a category's own count is weighed against."""
    max_rows_per_class: PositiveInt = 1000
    """Rows of one class that a reclassifier learns from, at most."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where XGBoost trains. A GPU pays for the reranker of a large catalogue; the reclassifiers are
    too small to notice."""
    published: bool = False
    """Also train the published second stage on the same features, for comparison in `evaluate`; it
    takes far longer."""
    seed: int = Field(default=0, ge=0)
    """Of sampling within XGBoost and of the projection's sample."""

    @model_validator(mode="after")
    def _regression_sees_all(self) -> "Stage2Config":
        if self.model == "logistic" and not self.base_margin:
            raise ValueError(
                "model: logistic sees stage 1's log-probabilities, which base_margin: false withholds"
            )
        return self
