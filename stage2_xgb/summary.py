"""Stage 2 on one page: what each answer gets right on val_b, in both class mixes, and what stage 2
gains there. No item is counted in a figure that it decided: who answers is decided on half of the
held-out products (reserve, val_a, val_b) and counted on val_b's of the other half, both ways, many
times (`heldout.ValB.own`). All else on val_b chose nothing.
"""

from dataclasses import dataclass

import numpy as np

from catalog.intervals import clustered_change
from stage2_xgb.bundle import Bundle
from stage2_xgb.crossfit import REPEATS
from stage2_xgb.gate import OWN, POOL, STAGE1, HeldOut
from stage2_xgb.heldout import RAW, UNITS, ValB, gated, mendable_share

GATED = "gated"
LEAST = 5
"""Items of a category in the balanced mix."""
_HEADS = {RAW: "stage 1", STAGE1: "adjusted", POOL: "pool", OWN: "own", GATED: "gated"}
Figures = dict[str, float | None]
"""Figures by name; None if there is nothing to count on."""


@dataclass(frozen=True)
class Stage2Summary:
    """The one-page summary on val_b."""

    sets: int
    models: int
    default: str
    answers: dict[str, int]
    """Categories answered by each of stage1, pool, own, as decided on all held-out products."""
    mendable_share: float | None
    """Share of val_b's images that the pool has wrong whose true class the set behind its answer
    has."""
    units: dict[str, dict[str, Figures]]
    """Unit -> mix -> `standing`."""
    shift: dict[str, dict[str, float]]
    """Unit -> temperature and strength of stage 1's class-mix shift."""
    weights: dict[str, dict[str, float]]
    """Unit -> each expert's weight in the pool, and the log-ratio's and the target mix's; empty
    without a pool."""
    seconds: dict[str, float]

    def text(self) -> str:
        """For a terminal."""
        answers = ", ".join(f"{name} {count}" for name, count in self.answers.items())
        models = f"{self.sets} confusion sets, {self.models} reclassifiers"
        lines = [f"stage 2: {models}; answering: {answers}; elsewhere {self.default}"]
        if not self.units[UNITS[0]]["natural"]["items"]:
            lines.append("val_b has no image: stage 2 can't be judged, and no reclassifier answers")
        else:
            lines += [
                *self._standings(),
                "errors of the pool on val_b that the sets could mend: "
                f"{_or_dash(self.mendable_share, '.0%')}",
            ]
        lines += [
            f"the pool weighs, per {unit}: "
            + ", ".join(f"{name} {weight:.2f}" for name, weight in weights.items())
            for unit, weights in self.weights.items()
        ]
        lines.append(
            "seconds: " + ", ".join(f"{name} {value:.1f}" for name, value in self.seconds.items())
        )
        return "\n".join(lines)

    def _standings(self) -> list[str]:
        heads = "".join(f"{head:>9}" for head in _HEADS.values())
        lines = [
            f"{'top-1 on val_b':32}{heads}   gated over adjusted   fixed  broken    net  "
            "share of own"
        ]
        for unit, mixes in self.units.items():
            for name, row in mixes.items():
                top1 = "".join(f"{_or_dash(row[answer], '.4f'):>9}" for answer in _HEADS)
                gain, low, high = (_points(row[end]) for end in ("gain", "low", "high"))
                gain = f"{gain} [{low}, {high}]"
                fixed, broken = row["fixed"] or 0.0, row["broken"] or 0.0
                net = f"{fixed:9.1f}{broken:8.1f}{fixed - broken:+7.1f}"
                lines.append(
                    f"  {row['items']:,.0f} {unit}s, {name}".ljust(32) + f"{top1}{gain:>23}{net}"
                )
                lines[-1] += f"{_or_dash(row['own_share'], '.0%'):>14}"
        return [
            *lines,
            "gated, its gain, fixed, broken and share of own: decided on half of the held-out "
            f"products and counted on the other half, {2 * REPEATS} times; what answers was "
            "decided on all of them",
        ]


def _points(share: float | None) -> str:
    return _or_dash(None if share is None else 100 * share, "+.2f")


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def summarise(
    bundle: Bundle,
    val_b: ValB,
    own: np.ndarray,
    weights: dict[str, dict[str, float]],
    seconds: dict[str, float],
) -> Stage2Summary:
    """The summary of a bundle whose gate has decided; `own` [N]: as ValB.own."""
    units = {}
    for unit in UNITS:
        rows = val_b.of_unit(unit)
        units[unit] = standings(val_b.held[rows], own[rows])
    decided = list(bundle.answers.values())
    return Stage2Summary(
        sets=len(bundle.members),
        models=len(bundle.modelled),
        default=bundle.default,
        answers={name: decided.count(name) for name in (STAGE1, POOL, OWN)},
        mendable_share=mendable_share(val_b.held[val_b.of_unit("image")], bundle.members),
        units=units,
        shift={unit: shift.numbers for unit, shift in bundle.shifts.items()},
        weights=weights,
        seconds=seconds,
    )


def standings(held: HeldOut, own: np.ndarray) -> dict[str, Figures]:
    """The items of one unit in the natural mix, and with every category of LEAST items or more
    counting the same."""
    support = np.bincount(held.class_index)[held.class_index]
    balanced = np.where(support >= LEAST, 1 / np.maximum(support, 1), 0)
    return {
        "natural": standing(held, own, np.ones(len(support))),
        "balanced": standing(held, own, balanced),
    }


def standing(held: HeldOut, own: np.ndarray, weight: np.ndarray) -> Figures:
    """Items that weigh something, and each answer's top-1. Of `gated`, the mean over the judgements
    in which reclassifiers answer with the share `own` [N]: its gain over the adjusted stage 1 with
    the 95% interval over products, the items that it fixed and broke, and the share of the gain
    that reclassifiers bring. None for what can't be said: without items, or a share of no gain."""
    counted = weight > 0
    change = {
        name: right.astype(np.float64) - held.right[STAGE1] for name, right in held.right.items()
    }
    fixed, broken = (
        gated(own, {name: sign * x > 0 for name, x in change.items()}) for sign in (1, -1)
    )
    figures: Figures = {
        "items": int(counted.sum()),
        "fixed": float(fixed[counted].sum()),
        "broken": float(broken[counted].sum()),
    }
    right = {**held.right, GATED: gated(own, held.right)}
    if not counted.any():
        return figures | dict.fromkeys((*right, "gain", "low", "high", "own_share"))
    figures |= {name: float(np.average(values, weights=weight)) for name, values in right.items()}
    gain = clustered_change(gated(own, change), weight, held.product_id)
    by_own = np.average(right[GATED] - held.right[POOL], weights=weight)
    return figures | {
        "gain": gain.value,
        "low": gain.low,
        "high": gain.high,
        "own_share": float(by_own / gain.value)
        if gain.value is not None and gain.value > 0
        else None,
    }
