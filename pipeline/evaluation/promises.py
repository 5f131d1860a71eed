"""What promised precisions amount to on the test split: thresholds from held-out products, counted
on products that had no part in them. Nothing is put on disk.
"""

from typing import Any

import numpy as np

from catalog.intervals import clustered_share
from catalog.taxonomy import Taxonomy
from pipeline.decisions.answers import Answers, levels_of
from pipeline.decisions.heldout import HeldOutAnswers
from pipeline.decisions.rules import REVIEW, decide, promised

PROMISES = (0.9, 0.95, 0.98)


def realised(
    held: HeldOutAnswers,
    answers: Answers,
    truth: np.ndarray,
    weight: np.ndarray,
    group: np.ndarray,
    taxonomy: Taxonomy,
) -> list[dict[str, Any]]:
    """Of each of PROMISES, in the mix that stage 2 was trained for: the rules of each level, the
    share of products that they accept and how many of these are right, with 95% intervals.

    The arrays [N] have a row for each evaluated product: its true category, its weight, and its
    group (products that share a picture).
    """
    levels, held = levels_of(taxonomy), held.under(held.fitted)
    rows = []
    for precision in PROMISES:
        rules, promises = promised(held.answers, held.class_index, levels, precision)
        decided = decide(answers, rules)
        right = decided.right(truth, levels)

        def counted(accepted: np.ndarray, right: np.ndarray = right) -> dict[str, Any]:
            share = clustered_share(accepted, weight, group)
            hit = clustered_share(right[accepted], weight[accepted], group[accepted])
            return {"accepted": share.to_json(), "right": hit.to_json()}

        each = [
            {"level": rule.level.number, "threshold": rule.threshold, "held_out": kept.n}
            | counted(decided.level == rule.level.number)
            for rule, kept in zip(rules, promises, strict=True)
        ]
        rows.append({"precision": precision, "levels": each} | counted(decided.level != REVIEW))
    return rows
