"""Products unlike every category: so far from the nearest one that few products of known categories
are as far. Nothing is put on disk.

The threshold comes from held-out products. What it is worth is measured on the same products, each
against all categories but its own, as if that had been left out of the catalogue.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import beta, binomtest

from catalog.intervals import Estimate, clustered_share
from pipeline.decisions.heldout import HeldOutAnswers
from pipeline.decisions.promise import RISK

ALARMS = 0.05
"""Products of known categories that may be flagged, at most."""
CALIBRATED = 0.8 * ALARMS
"""Of held-out products. A further dump is never quite like the catalogue: in nine runs on five of
them 0.9 to 1.9 times the share of the held-out products was flagged; the margin follows them."""


@dataclass(frozen=True)
class Novelty:
    """Flags products whose distance is above a `threshold`. Of `held_out` products so many were
    flagged (`alarms`), at most the share CALIBRATED of such products with probability 1 - RISK;
    `power`: the share flagged if their own category is left out."""

    threshold: float
    held_out: int
    alarms: int
    power: Estimate

    def __call__(self, distance: np.ndarray) -> np.ndarray:
        """Which products are flagged, bool [N], by their distance [N]."""
        return distance > np.float32(self.threshold)

    def text(self, flagged: int, products: int) -> str:
        """For a terminal: how many products were flagged, and what to make of it."""
        share, alarms = flagged / max(products, 1), self.alarms / self.held_out
        text = (
            f"novel: {flagged} of {products} products ({share:.1%}) are unlike every category, as "
            f"are {alarms:.1%} of {self.held_out} held-out ones, and {self.power.value:.1%} of "
            "these if their category is left out"
        )
        if self.too_many(flagged, products):
            text += (
                "; more than chance: some are of other categories, and nothing is promised of them"
            )
        return text

    def too_many(self, flagged: int, products: int) -> bool:
        """Whether products of known categories alone would surely not be flagged so often."""
        if not flagged:
            return False
        return binomtest(flagged, products, ALARMS, alternative="greater").pvalue < RISK

    def figures(self) -> dict[str, Any]:
        """For summary.json."""
        bounds = (self.power.value, self.power.low, self.power.high)
        names = ("value", "low", "high")
        percent = [None if x is None else round(100 * x, 1) for x in bounds]
        return {
            "held_out_products": self.held_out,
            "alarms_percent": round(100 * self.alarms / self.held_out, 1),
            "power_percent": dict(zip(names, percent, strict=True)),
        }


def novelty(held: HeldOutAnswers) -> Novelty | None:
    """The lowest threshold that flags at most CALIBRATED of the products of known categories with
    probability 1 - RISK; None if held-out products are too few to say, or nothing says how far they
    are."""
    distance = np.sort(held.distance)[::-1]
    n = len(distance)
    if not n or np.isnan(distance).any():
        return None
    counts = np.arange(int(n * CALIBRATED) + 1)
    passed = np.flatnonzero(beta.ppf(1 - RISK, counts + 1, n - counts) <= CALIBRATED)
    if not len(passed):
        return None
    threshold = float(distance[passed[-1]])  # the next one is not above it
    alarms = int((held.distance > np.float32(threshold)).sum())
    flagged = held.apart > np.float32(threshold)
    power = clustered_share(flagged, np.ones(n), held.class_index)
    return Novelty(threshold, n, alarms, power)
