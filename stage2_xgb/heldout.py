"""What every system answers for val_b, computed once.

The gate decides on it together with reserve, val_a and extra, of which it knows out-of-fold answers
(stage2_xgb.out_of_fold). What is reported of stage 2 is counted on val_b: by decisions that other
products made (`ValB.own`), never by those of the item itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from catalog.parallel import in_threads
from stage2_xgb.bundle import Bundle
from stage2_xgb.config import Stage2Config
from stage2_xgb.crossfit import cross_fitted_scores
from stage2_xgb.dataset import Block, Views
from stage2_xgb.gate import OWN, POOL, STAGE1, Decision, HeldOut, decide
from stage2_xgb.items import ItemBlock
from stage2_xgb.refine import answer_with_all

UNITS = ("image", "product")
RAW = "raw"
"""Stage 1 before the class-mix shift."""


def gated(own: np.ndarray, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Mean over the judgements of what each answer's `values` [N] are, float64 [N]; `own` [N] is
    the share of judgements in which a category's own reclassifier answers, else the opinion before
    it does."""
    return own * values[OWN] + (1 - own) * values[POOL]


def own_answers(predicted: np.ndarray, decisions: Mapping[int, Decision]) -> np.ndarray:
    """Whether a reclassifier answers by some decisions, float64 [N], of items that the opinion
    before puts into categories [N]."""
    own = [c for c, decision in decisions.items() if decision.answer == OWN]
    return np.isin(predicted, own).astype(np.float64)


def cross_fit(
    held: HeldOut, counted: np.ndarray, classes: np.ndarray, target: np.ndarray, seed: int
) -> np.ndarray:
    """Share of judgements [N] in which a reclassifier answers if other products decide: many ways
    of halving the products, each half deciding for the other.

    `classes`, `target`: as `decide`. Of the deciders the items in the mask `counted` bool [N]
    count.
    """

    def own_of_others(deciders: np.ndarray, others: np.ndarray) -> np.ndarray:
        decisions = decide(held[deciders & counted], POOL, classes, target, seed)
        return own_answers(held.predicted[others], decisions)

    return cross_fitted_scores(held.product_id, own_of_others, "gate", seed)


@dataclass(frozen=True)
class ValB:
    """Images and products of val_b, one row per item.

    held: what each of raw, stage1, pool and own has right. confidence: of each of pool and own in
    its answer, float [N]. counted bool [N]: items that count in the gate (a product of one image
    counts as that image). unit int [N]: place in UNITS. others: the held-out items of reserve and
    val_a, out of fold, which decide as well. target [K]: the mix that the gate weights to.
    """

    held: HeldOut
    confidence: Mapping[str, np.ndarray]
    counted: np.ndarray
    unit: np.ndarray
    others: HeldOut
    target: np.ndarray

    @classmethod
    def of(
        cls, bundle: Bundle, views: Views, others: HeldOut, target: np.ndarray, jobs: int
    ) -> "ValB":
        """Asks every system of the bundle about every item, in `jobs` threads."""

        def read(block: Block) -> list[dict[str, np.ndarray]]:
            images = block.items(views.head)
            return [_answers(bundle, images, number) for number in range(len(UNITS))]

        blocks = views.features("val_b", fit_only=True)
        tables = [table for by_unit in in_threads(read, blocks, jobs) for table in by_unit]
        columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
        right = {name: columns[f"right_{name}"] for name in (RAW, STAGE1, POOL, OWN)}
        held = HeldOut(columns["predicted"], columns["class_index"], columns["product_id"], right)
        confidence = {name: columns[f"confidence_{name}"] for name in (POOL, OWN)}
        counted = (columns["n_images"] > 1) | (columns["unit"] == UNITS.index("image"))
        return cls(held, confidence, counted, columns["unit"], others, target)

    def of_unit(self, unit: str) -> np.ndarray:
        """Mask of the items of one unit."""
        return self.unit == UNITS.index(unit)

    def decide(self, bundle: Bundle, config: Stage2Config) -> dict[int, Decision]:
        """What ships: the decision of each category with a reclassifier.

        The gate decides on all of val_b and `others`; without a gate every reclassifier answers.
        """
        held = HeldOut.concatenate([self.held[self.counted], self.others])
        decisions = decide(held, bundle.default, _modelled(bundle), self.target, config.seed)
        if config.gate:
            return decisions
        return {c: replace(decision, answer=OWN) for c, decision in decisions.items()}

    def own(self, bundle: Bundle, config: Stage2Config) -> np.ndarray:
        """Share of judgements [N] in which a reclassifier answers if other products decide; without
        a gate, what ships."""
        return self.own_of(bundle, config, self.held[:0])[0]

    def own_of(
        self, bundle: Bundle, config: Stage2Config, further: HeldOut
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same, and the same of `further` items, which decide nothing."""
        held = HeldOut.concatenate([self.held, self.others, further])
        if config.gate:
            counted = np.r_[self.counted, np.ones(len(self.others), dtype=bool)]
            counted = np.r_[counted, np.zeros(len(further), dtype=bool)]
            share = cross_fit(held, counted, _modelled(bundle), self.target, config.seed)
        else:
            share = own_answers(held.predicted, self.decide(bundle, config))
        return share[: len(self.held)], share[len(held) - len(further) :]


def _modelled(bundle: Bundle) -> np.ndarray:
    """Categories that have a reclassifier, int64 [C]."""
    return np.array([c for c in bundle.members if bundle.reclassifier(c)], dtype=np.int64)


def _answers(bundle: Bundle, images: ItemBlock, number: int) -> dict[str, np.ndarray]:
    """Columns of ValB for some images, or for their products: of unit `number`."""
    pooled, opinions = answer_with_all(bundle, images, UNITS[number])
    columns = {name: getattr(pooled, name) for name in ("class_index", "product_id", "n_images")}
    columns |= {"unit": np.full(len(pooled), number)}
    columns |= {"predicted": opinions[POOL].argmax(axis=1)}
    for name, opinion in {RAW: pooled.log_probs, **opinions}.items():
        columns[f"right_{name}"] = opinion.argmax(axis=1) == pooled.class_index
        columns[f"confidence_{name}"] = np.exp(opinion.max(axis=1))
    return columns


def mendable_share(held: HeldOut, members: Mapping[int, np.ndarray]) -> float | None:
    """Share of the errors before the reclassifiers that perfect ones could fix: those whose true
    class is in the predicted class's confusion set. Errors behind categories without a set count
    too. None if there is no error."""
    wrong = np.flatnonzero(held.predicted != held.class_index)
    none = np.zeros(0, dtype=np.int32)
    pairs = zip(held.predicted[wrong].tolist(), held.class_index[wrong].tolist(), strict=True)
    mendable = [truth in members.get(predicted, none) for predicted, truth in pairs]
    return float(np.mean(mendable)) if mendable else None
