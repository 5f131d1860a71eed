"""Stage 2 on one page: what each answer gets right on val_b, in both class mixes, and what stage 2 is worth there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stage2_xgb.dataset import Views
from stage2_xgb.gate import OWN, SHARED, STAGE1, HeldOut
from stage2_xgb.items import pool
from stage2_xgb.prior import Shift

RAW, GATED = "raw", "gated"
LEAST = 5
"""Items of a category in the balanced mix."""
_HEADS = {RAW: "stage 1", STAGE1: "shifted", SHARED: "shared", OWN: "own", GATED: "gated"}


@dataclass(frozen=True)
class Stage2Summary:
    """The one-page summary on val_b."""

    sets: int
    models: int
    default: str
    answers: dict[str, int]
    """Categories answered by each of stage1, shared, own."""
    mendable_share: float
    """Share of the held-out errors that perfect reclassifiers could mend."""
    units: dict[str, dict[str, dict[str, float]]]
    """Unit -> mix -> `standing`."""
    shift: dict[str, list[dict[str, float] | None]]
    pooling: dict[str, float]
    """Products of several images on val_b and their top-1 by the shifted stage 1: pooled by `mean` log-probability, `weighted`
    (with the chosen `sharpness`), or their mean `features`."""
    seconds: dict[str, float]

    def text(self) -> str:
        """For a terminal."""
        answers = ", ".join(f"{name} {count}" for name, count in self.answers.items())
        lines = [
            f"stage 2: {self.sets} confusion sets, {self.models} reclassifiers; answering: {answers}; elsewhere {self.default}",
            f"errors that the sets could mend: {self.mendable_share:.0%} (published: 32%)",
            "top-1 on val_b, which no fit saw" + "".join(f"{head:>9}" for head in _HEADS.values())
            + "   gated over shifted    fixed  broken    net  share of own",
        ]  # fmt: skip
        for unit, mixes in self.units.items():
            for name, row in mixes.items():
                what = f"  {row['items']:,.0f} {unit}s, {name}"
                top1 = "".join(f"{row[answer]:9.4f}" for answer in _HEADS)
                gain = f"{100 * row['gain']:+.2f} [{100 * row['low']:+.2f}, {100 * row['high']:+.2f}]"
                net = f"{row['fixed']:9.0f}{row['broken']:8.0f}{row['fixed'] - row['broken']:+7.0f}"
                lines.append(f"{what:32}{top1}{gain:>23}{net}{row['own_share']:14.0%}")
        if several := self.pooling["products"]:
            ways = ", ".join(f"{name} {self.pooling[name]:.4f}" for name in ("mean", "weighted", "features"))
            sharpness = self.pooling["sharpness"]
            lines.append(f"{several:.0f} products of several images, shifted, by pooling: {ways} (sharpness {sharpness})")
        lines.append("seconds: " + ", ".join(f"{name} {value:.1f}" for name, value in self.seconds.items()))
        return "\n".join(lines)


def standings(held: HeldOut, answers: Mapping[int, str], default: str) -> dict[str, dict[str, float]]:
    """The items of one unit in the natural mix, and with every category of LEAST items or more counting the same."""
    own = np.isin(held.predicted, [c for c, answer in answers.items() if answer == OWN])
    held = replace(held, right={**held.right, GATED: np.where(own, held.right[OWN], held.right[default])})
    support = np.bincount(held.class_index)[held.class_index]
    balanced = np.where(support >= LEAST, 1 / np.maximum(support, 1), 0)
    return {"natural": standing(held, np.ones(len(support)), default), "balanced": standing(held, balanced, default)}


def standing(held: HeldOut, weight: np.ndarray, default: str) -> dict[str, float]:
    """Items that weigh something, each answer's top-1; the gain of `gated` over the shifted stage 1 with its 95% interval over
    products; what it fixed and broke; and the active reclassifiers' share of the gain, 0 where there is none."""
    total = max(weight.sum(), 1e-9)
    top1 = {name: float(weight @ right / total) for name, right in held.right.items()}
    change = held.right[GATED].astype(np.int8) - held.right[STAGE1]
    gain = float(weight @ change / total)
    _, group = np.unique(held.product_id, return_inverse=True)
    error = float(np.sqrt(np.square(np.bincount(group, weight * (change - gain))).sum()) / total)
    counted = weight > 0
    return {
        "items": int(counted.sum()), **top1, "gain": gain, "low": gain - 1.96 * error, "high": gain + 1.96 * error,
        "fixed": int((change[counted] > 0).sum()), "broken": int((change[counted] < 0).sum()),
        "own_share": (top1[GATED] - top1[default]) / gain if gain > 0 else 0.0,
    }  # fmt: skip


def compare_pooling(views: Views, shifts: Sequence[Shift | None], sharpness: float) -> dict[str, Any]:
    """Top-1 of the shifted stage 1 on val_b's products of several images, pooled in each way."""
    right: dict[str, list[np.ndarray]] = {"mean": [], "weighted": [], "features": []}
    product_id = views.first.table.product_id[views.first.of_split("val_b")]
    if (np.diff(product_id) != 0).all():  # a product's images stand together
        return {"products": 0, "sharpness": sharpness, **dict.fromkeys(right, 0.0)}
    for images in views.blocks("val_b", fit_only=True):
        mean, weighted = pool(images, 0.0), pool(images, sharpness)
        opinions = (mean.log_probs[0], weighted.log_probs[0], views.heads[0].log_probs(mean.features[0]))
        for name, log_probs in zip(right, opinions, strict=True):
            right[name].append((shifts[0](log_probs).argmax(axis=1) == mean.class_index)[mean.n_images > 1])
    found = {name: np.concatenate(parts) for name, parts in right.items()}
    products = len(found["mean"])
    top1 = {name: float(values.mean()) if products else 0.0 for name, values in found.items()}
    return {"products": products, "sharpness": sharpness, **top1}
