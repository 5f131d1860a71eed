"""What every system answers for val_b, computed once.

The gate decides on it, and what is reported of stage 2 is counted on it: by decisions that other
products made (`ValB.answering`), never by those of the item itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stage2_xgb.bundle import Bundle
from stage2_xgb.config import Stage2Config
from stage2_xgb.crossfit import cross_judge
from stage2_xgb.dataset import Views
from stage2_xgb.gate import (
    OWN,
    SHARED,
    STAGE1,
    Decision,
    HeldOut,
    choose_default,
    decide,
)
from stage2_xgb.items import Pooled, pool
from stage2_xgb.refine import each_answer

UNITS = ("image", "product")
RAW = "raw"
"""Stage 1 before the class-mix shift."""


@dataclass(frozen=True)
class Answering:
    """Who answers for each item, over one judgement or many: the share of judgements [N] in which
    `stage1`, `shared` or `own` answers (they sum to 1), and the share [N] in which the default is
    the shared reranker, which would answer if no reclassifier did."""

    shares: Mapping[str, np.ndarray]
    shared_default: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> "Answering":
        return Answering(
            {name: share[rows] for name, share in self.shares.items()}, self.shared_default[rows]
        )

    def gated(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Mean over the judgements of what each answer's `values` [N] are, float64 [N]."""
        return sum(share * values[name] for name, share in self.shares.items())

    def without_own(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """The same if no reclassifier answered, float64 [N]."""
        return self.shared_default * values[SHARED] + (1 - self.shared_default) * values[STAGE1]

    @classmethod
    def of(
        cls, predicted: np.ndarray, default: str, decisions: Mapping[int, Decision]
    ) -> "Answering":
        """One judgement: by some decisions, of items that stage 1 puts into categories [N]."""
        own = np.isin(predicted, [c for c, decision in decisions.items() if decision.answer == OWN])
        shares = {name: np.where(own, 0.0, float(name == default)) for name in (STAGE1, SHARED)}
        return cls(
            shares | {OWN: own.astype(np.float64)},
            np.full(len(predicted), float(default == SHARED)),
        )


def cross_fit(
    held: HeldOut, counted: np.ndarray, classes: np.ndarray, prior: float, seed: int
) -> Answering:
    """Who answers for each item if other products decide: many ways of halving the products, each
    half deciding for the other.

    `classes`, `prior`: as `decide`. Of the deciders the items in the mask `counted` bool [N] count.
    """

    def judge(deciders: np.ndarray, judged: np.ndarray) -> np.ndarray:
        seen = held[deciders & counted]
        default = choose_default(seen)
        found = Answering.of(held.predicted[judged], default, decide(seen, default, classes, prior))
        return np.stack([*found.shares.values(), found.shared_default], axis=1)

    *shares, shared_default = cross_judge(held.product_id, judge, "gate", seed).T
    return Answering(dict(zip((STAGE1, SHARED, OWN), shares, strict=True)), shared_default)


@dataclass(frozen=True)
class ValB:
    """Images and products of val_b, one row per item.

    held: what each of raw, stage1, shared and own has right. confidence: of each of stage1, shared
    and own in its answer, float [N]. counted bool [N]: items that count in the gate (a product of
    one image counts as that image). unit int [N]: place in UNITS.
    """

    held: HeldOut
    confidence: Mapping[str, np.ndarray]
    counted: np.ndarray
    unit: np.ndarray

    @classmethod
    def of(cls, bundle: Bundle, views: Views) -> "ValB":
        """Asks every system of the bundle about every item."""
        parts: list[dict[str, np.ndarray]] = []
        for images in views.blocks("val_b", fit_only=True):
            for number, pooled in enumerate((images, pool(images, bundle.sharpness))):
                unit = np.full(len(pooled), number)
                parts.append(_answers(bundle, pooled, UNITS[number]) | {"unit": unit})
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        right = {name: columns[f"right_{name}"] for name in (RAW, STAGE1, SHARED, OWN)}
        held = HeldOut(columns["predicted"], columns["class_index"], columns["product_id"], right)
        confidence = {name: columns[f"confidence_{name}"] for name in (STAGE1, SHARED, OWN)}
        counted = (columns["n_images"] > 1) | (columns["unit"] == UNITS.index("image"))
        return cls(held, confidence, counted, columns["unit"])

    def of_unit(self, unit: str) -> np.ndarray:
        """Mask of the items of one unit."""
        return self.unit == UNITS.index(unit)

    def decide(self, bundle: Bundle, config: Stage2Config) -> tuple[str, dict[int, Decision]]:
        """What ships: the default answer, and the decision of each category with a reclassifier.

        The gate decides on all of val_b; without a gate every reclassifier answers.
        """
        held, classes = self.held[self.counted], _modelled(bundle)
        default = choose_default(held) if config.gate else (SHARED if config.rerank.use else STAGE1)
        decisions = decide(held, default, classes, config.gate_prior)
        if not config.gate:
            decisions = {
                c: Decision(OWN, d.products, d.fixed, d.broken, d.gain)
                for c, d in decisions.items()
            }
        return default, decisions

    def answering(self, bundle: Bundle, config: Stage2Config) -> Answering:
        """Who answers for each item if other products decide; without a gate, what ships."""
        if config.gate:
            return cross_fit(
                self.held, self.counted, _modelled(bundle), config.gate_prior, config.seed
            )
        return Answering.of(self.held.predicted, *self.decide(bundle, config))


def _modelled(bundle: Bundle) -> np.ndarray:
    """Categories that have a reclassifier, int64 [C]."""
    return np.array([c for c in bundle.members if bundle.reclassifier(c)], dtype=np.int64)


def _answers(bundle: Bundle, pooled: Pooled, unit: str) -> dict[str, np.ndarray]:
    """Columns of ValB for some items."""
    opinions = each_answer(bundle, pooled, unit)
    columns = {name: getattr(pooled, name) for name in ("class_index", "product_id", "n_images")}
    columns["predicted"] = opinions[STAGE1].argmax(axis=1)
    columns[f"right_{RAW}"] = pooled.log_probs[0].argmax(axis=1) == pooled.class_index
    for name, opinion in opinions.items():
        columns[f"right_{name}"] = opinion.argmax(axis=1) == pooled.class_index
        columns[f"confidence_{name}"] = np.exp(opinion.max(axis=1))
    return columns


def mendable_share(held: HeldOut, members: Mapping[int, np.ndarray]) -> float | None:
    """Share of the shifted stage 1's errors that perfect reclassifiers could mend: those whose true
    class is in the predicted class's confusion set. Errors behind categories without a set count
    too. None if there is no error."""
    wrong = np.flatnonzero(held.predicted != held.class_index)
    none = np.zeros(0, dtype=np.int32)
    pairs = zip(held.predicted[wrong].tolist(), held.class_index[wrong].tolist(), strict=True)
    mendable = [truth in members.get(predicted, none) for predicted, truth in pairs]
    return float(np.mean(mendable)) if mendable else None
