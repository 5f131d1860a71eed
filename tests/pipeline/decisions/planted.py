"""A catalogue of planted probabilities: what is right is known of every product, exactly."""

import functools
from dataclasses import dataclass

import numpy as np

from catalog.taxonomy import Category, Taxonomy
from pipeline.decisions.answers import Answers, levels_of

CLASSES, FAMILIES, WIDE = 5270, 483, 49
KEPT = 8


@functools.cache
def taxonomy() -> Taxonomy:
    """5,270 categories in 483 families of 49."""
    families = np.arange(CLASSES) * FAMILIES // CLASSES
    wide = families * WIDE // FAMILIES
    return Taxonomy(
        Category(i, f"w{w}", f"f{f}", f"c{i}")
        for i, (w, f) in enumerate(zip(wide.tolist(), families.tolist(), strict=True))
    )


@dataclass(frozen=True)
class Population:
    """Products whose true category is drawn from `true` [N, KEPT], the probabilities of their
    likeliest categories; the answers claim others, which are too sure."""

    answers: Answers
    true: np.ndarray

    @classmethod
    def draw(cls, size: int, rng: np.random.Generator, overconfidence: float = 1.3) -> "Population":
        """Half of the mass of a product that is hard lies in its own family, as neighbours are."""
        tax = taxonomy()
        order = np.argsort(tax.families[:, 1], kind="stable")
        centre = rng.zipf(1.3, size) % CLASSES
        near = (centre[:, None] + rng.integers(-4, 5, (size, KEPT))) % CLASSES
        far = rng.integers(0, CLASSES, (size, KEPT))
        classes = np.where(rng.random((size, KEPT)) < 0.6, order[near], far)
        classes[:, 0] = centre
        logits = rng.normal(0, 1, (size, KEPT)) * rng.gamma(2.0, 2.0, (size, 1))
        true = np.exp(logits - logits.max(axis=1, keepdims=True))
        true /= true.sum(axis=1, keepdims=True)
        claimed = true**overconfidence
        claimed /= claimed.sum(axis=1, keepdims=True)
        rank = np.argsort(-claimed, axis=1)
        classes, true, claimed = (
            np.take_along_axis(x, rank, axis=1) for x in (classes, true, claimed)
        )
        return cls(Answers(classes.astype(np.int32), np.log(claimed).astype(np.float32)), true)

    def truths(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """True categories of some products, drawn."""
        place = (self.true[rows].cumsum(axis=1) < rng.random((len(rows), 1))).sum(axis=1)
        return self.answers.top_class[rows, np.minimum(place, KEPT - 1)]

    def chance_right(self, level: np.ndarray, class_index: np.ndarray) -> np.ndarray:
        """Probability [N] that the family of a category, on each product's level, is right."""
        found = self.true[:, 0].copy()
        for step in levels_of(taxonomy()):
            rows = level == step.number
            same = (
                step.group[self.answers.top_class[rows]] == step.group[class_index[rows]][:, None]
            )
            found[rows] = (self.true[rows] * same).sum(axis=1)
        return found
