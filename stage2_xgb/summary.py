"""Stage 2 on one page: what each answer gets right on val_b, in both class mixes, and what stage 2
is worth there.

No item counts where it decided: who answers is decided on half of val_b's products and counted on
the other half, both ways, many times (`heldout.ValB.answering`). All else on val_b chose nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from catalog.intervals import clustered_change
from stage2_xgb.bundle import Bundle
from stage2_xgb.crossfit import REPEATS
from stage2_xgb.dataset import Views
from stage2_xgb.gate import OWN, SHARED, STAGE1, HeldOut
from stage2_xgb.heldout import RAW, UNITS, Answering, ValB, mendable_share
from stage2_xgb.items import pool
from stage2_xgb.prior import Shift

GATED = "gated"
LEAST = 5
"""Items of a category in the balanced mix."""
_HEADS = {RAW: "stage 1", STAGE1: "shifted", SHARED: "shared", OWN: "own", GATED: "gated"}
Figures = dict[str, float | None]
"""Figures by name; None where there is nothing to count on."""


@dataclass(frozen=True)
class Stage2Summary:
    """The one-page summary on val_b."""

    sets: int
    models: int
    default: str
    answers: dict[str, int]
    """Categories answered by each of stage1, shared, own, as decided on all of val_b."""
    mendable_share: float | None
    """Share of val_b's images that the shifted stage 1 has wrong whose true class the set behind
    its answer has."""
    units: dict[str, dict[str, Figures]]
    """Unit -> mix -> `standing`."""
    shift: dict[str, list[dict[str, float] | None]]
    pooling: Figures
    """Products of several images on val_b and their top-1 by the shifted stage 1: pooled by `mean`
    log-probability, `weighted` (with the chosen `sharpness`), or their mean `features`."""
    seconds: dict[str, float]

    def text(self) -> str:
        """For a terminal."""
        answers = ", ".join(f"{name} {count}" for name, count in self.answers.items())
        models = f"{self.sets} confusion sets, {self.models} reclassifiers"
        lines = [f"stage 2: {models}; answering: {answers}; elsewhere {self.default}"]
        if not self.units[UNITS[0]]["natural"]["items"]:
            lines.append(
                f"val_b has no image: stage 2 can't be judged, and answers as if nothing spoke for it: {self.default}"
            )
        else:
            lines += [
                *self._standings(),
                f"errors on val_b that the sets could mend: {_or_dash(self.mendable_share, '.0%')}",
            ]
        if several := self.pooling["products"]:
            ways = ", ".join(
                f"{name} {self.pooling[name]:.4f}" for name in ("mean", "weighted", "features")
            )
            sharpness = self.pooling["sharpness"]
            lines.append(
                f"{several:.0f} products of several images, shifted, by pooling: {ways} (sharpness {sharpness})"
            )
        lines.append(
            "seconds: " + ", ".join(f"{name} {value:.1f}" for name, value in self.seconds.items())
        )
        return "\n".join(lines)

    def _standings(self) -> list[str]:
        heads = "".join(f"{head:>9}" for head in _HEADS.values())
        lines = [
            f"{'top-1 on val_b':32}{heads}   gated over shifted    fixed  broken    net  share of own"
        ]
        for unit, mixes in self.units.items():
            for name, row in mixes.items():
                top1 = "".join(f"{_or_dash(row[answer], '.4f'):>9}" for answer in _HEADS)
                ends = [
                    _or_dash(row[end] and 100 * row[end], "+.2f") for end in ("gain", "low", "high")
                ]
                gain = f"{ends[0]} [{ends[1]}, {ends[2]}]"
                net = f"{row['fixed']:9.1f}{row['broken']:8.1f}{row['fixed'] - row['broken']:+7.1f}"
                lines.append(
                    f"  {row['items']:,.0f} {unit}s, {name}".ljust(32) + f"{top1}{gain:>23}{net}"
                )
                lines[-1] += f"{_or_dash(row['own_share'], '.0%'):>14}"
        judged = f"decided on half of val_b's products and counted on the other half, {2 * REPEATS} times"
        return [
            *lines,
            f"gated, its gain, fixed, broken and share of own: {judged}; what answers was decided on all of val_b",
        ]


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def summarise(
    bundle: Bundle, val_b: ValB, answering: Answering, views: Views, seconds: dict[str, float]
) -> Stage2Summary:
    """The summary of a bundle whose gate has decided."""
    units = {}
    for unit in UNITS:
        rows = val_b.of_unit(unit)
        units[unit] = standings(val_b.held[rows], answering[rows])
    answers = {
        name: sum(answer == name for answer in bundle.answers.values())
        for name in (STAGE1, SHARED, OWN)
    }
    mendable = mendable_share(val_b.held[val_b.of_unit("image")], bundle.members)
    shift = {
        unit: [s and {"temperature": s.temperature, "strength": s.strength} for s in shifts]
        for unit, shifts in bundle.shifts.items()
    }
    pooling = compare_pooling(views, bundle.shifts["product"], bundle.sharpness)
    models = len(bundle.modelled)
    return Stage2Summary(
        len(bundle.members),
        models,
        bundle.default,
        answers,
        mendable,
        units,
        shift,
        pooling,
        seconds,
    )


def standings(held: HeldOut, answering: Answering) -> dict[str, Figures]:
    """The items of one unit in the natural mix, and with every category of LEAST items or more
    counting the same."""
    support = np.bincount(held.class_index)[held.class_index]
    balanced = np.where(support >= LEAST, 1 / np.maximum(support, 1), 0)
    return {
        "natural": standing(held, answering, np.ones(len(support))),
        "balanced": standing(held, answering, balanced),
    }


def standing(held: HeldOut, answering: Answering, weight: np.ndarray) -> Figures:
    """Items that weigh something, and each answer's top-1. Of `gated`, the mean over the judgements
    of `answering`: its gain over the shifted stage 1 with the 95% interval over products, the items
    that it fixed and broke, and the share of the gain that reclassifiers bring. None for what can't
    be said: without items, or a share of no gain."""
    counted = weight > 0
    change = {
        name: right.astype(np.float64) - held.right[STAGE1] for name, right in held.right.items()
    }
    fixed, broken = (
        answering.gated({name: sign * x > 0 for name, x in change.items()}) for sign in (1, -1)
    )
    figures: Figures = {
        "items": int(counted.sum()),
        "fixed": float(fixed[counted].sum()),
        "broken": float(broken[counted].sum()),
    }
    right = {**held.right, GATED: answering.gated(held.right)}
    if not counted.any():
        return figures | dict.fromkeys((*right, "gain", "low", "high", "own_share"))
    figures |= {name: float(np.average(values, weights=weight)) for name, values in right.items()}
    gain = clustered_change(answering.gated(change), weight, held.product_id)
    by_own = np.average(right[GATED] - answering.without_own(held.right), weights=weight)
    return figures | {
        "gain": gain.value,
        "low": gain.low,
        "high": gain.high,
        "own_share": float(by_own / gain.value) if gain.value > 0 else None,
    }


def compare_pooling(views: Views, shifts: Sequence[Shift | None], sharpness: float) -> Figures:
    """Top-1 of the shifted stage 1 on val_b's products of several images, pooled in each way."""
    right: dict[str, list[np.ndarray]] = {"mean": [], "weighted": [], "features": []}
    product_id = views.first.table.product_id[views.first.of_split("val_b")]
    if (np.diff(product_id) != 0).all():  # a product's images stand together
        return {"products": 0, "sharpness": sharpness, **dict.fromkeys(right)}
    for images in views.blocks("val_b", fit_only=True):
        mean, weighted = pool(images, 0.0), pool(images, sharpness)
        opinions = (
            mean.log_probs[0],
            weighted.log_probs[0],
            views.heads[0].log_probs(mean.features[0]),
        )
        for name, log_probs in zip(right, opinions, strict=True):
            right[name].append(
                (shifts[0](log_probs).argmax(axis=1) == mean.class_index)[mean.n_images > 1]
            )
    found = {name: np.concatenate(parts) for name, parts in right.items()}
    products = len(found["mean"])
    top1 = {name: float(values.mean()) if products else None for name, values in found.items()}
    return {"products": products, "sharpness": sharpness, **top1}
