"""Which threshold a wanted precision takes, on which levels of the hierarchy, by the rules that
`score --promise` applies (pipeline.decisions), on held-out products."""

from typing import Any

from catalog.taxonomy import Taxonomy
from pipeline.decisions.answers import levels_of
from pipeline.decisions.heldout import HeldOutAnswers
from pipeline.decisions.rules import promised
from pipeline.scoring import coverage

PRECISIONS = (0.8, 0.85, 0.9, 0.92, 0.95, 0.97, 0.98, 0.99)


def what_if(held: HeldOutAnswers, taxonomy: Taxonomy) -> dict[str, Any]:
    """`levels`, the numbers of the levels from the categories up; `curves`, of each level what a
    threshold accepts and gets right; `promises`: for each of PRECISIONS and each number of levels
    (`depth`) the threshold of each and what the held-out products say of it."""
    held, levels = held.under(held.fitted), levels_of(taxonomy)
    curves = []
    for level in levels:
        chosen, mass = held.answers.at(level)
        right = level.group[chosen] == level.group[held.class_index]
        curves.append(coverage.costs(mass, right, held.product_id))
    promises = []
    for precision in PRECISIONS:
        for depth in range(1, len(levels) + 1):
            promised_levels = levels[:depth]
            _, kept = promised(held.answers, held.class_index, promised_levels, precision)
            each = [
                {"level": level.number} | promise.to_json()
                for level, promise in zip(promised_levels, kept, strict=True)
            ]
            promises.append({"precision": precision, "depth": depth, "levels": each})
    return {
        "n": len(held),
        "levels": [level.number for level in levels],
        "curves": curves,
        "promises": promises,
    }
