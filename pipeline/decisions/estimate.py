"""The class mix of products whose categories nobody knows, from what both stages say of them: the
likeliest one (`pipeline.decisions.label_shift`), on probabilities whose bias for or against each
category is taken out on held-out products first (Alexandari, Kundaje, Shrikumar 2020).

That holds if the products of a category look as they do in the catalogue, however many there are.
Whether they do is tested (`pipeline.decisions.drift`); if not, nothing is estimated.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute

from catalog.artifacts import atomic_path
from catalog.errors import ShelfsortError
from catalog.splits import sample_hash
from catalog.taxonomy import Taxonomy
from pipeline.decisions.answers import Answers
from pipeline.decisions.drift import Drift, measure_drift
from pipeline.decisions.heldout import HeldOutAnswers
from pipeline.decisions.label_shift import Unlabelled, best_prior

PRODUCTS = 50_000
"""Products that a mix is estimated from, at most."""
_SPLITS = 3
_LEAST_SD = 0.2
"""Of log-ratios before the products are seen, for intervals: even if no shift is sure."""
_WIDEST = 4.0
"""Variance of biases, at most: few held-out products may say that it is without end."""
_LEAST = 1e-9
_NEWTON, _DAMPED, _CLOSE = 50, 0.7, 1e-4
_SHOWN = 3


@dataclass(frozen=True)
class EstimatedMix:
    """A class mix [K], its 95% interval `low`, `high` [K], the mix `before` [K]; how many
    `products` it is estimated from, and how these compare with the catalogue's."""

    mix: np.ndarray
    low: np.ndarray
    high: np.ndarray
    before: np.ndarray
    products: int
    drift: Drift

    @property
    def moved(self) -> float:
        """Share of the products that are of other categories than the mix before says."""
        return float(np.abs(self.mix - self.before).sum() / 2)

    def lines(self, taxonomy: Taxonomy) -> list[str]:
        """For a terminal."""
        if not self.moved:
            same = f"class mix: {self.products} products don't surely say another one than expected"
            return [f"{same}; it stays", self.drift.text()]
        order = np.argsort(-np.abs(self.mix - self.before), kind="stable")[:_SHOWN]
        most = [
            f"{taxonomy[c].name} {self.before[c]:.1%} -> {self.mix[c]:.1%} "
            f"[{self.low[c]:.1%}, {self.high[c]:.1%}]"
            for c in order.tolist()
        ]
        return [
            f"class mix, estimated from {self.products} products: {self.moved:.1%} of them are of "
            "other categories than was expected",
            f"what moved most: {', '.join(most)}",
            self.drift.text(),
        ]

    def figures(self) -> dict[str, Any]:
        """For summary.json."""
        return {
            "products": self.products,
            "moved_percent": round(100 * self.moved, 1),
            "drift_auc": round(self.drift.auc, 4),
        }

    def to_csv(self, path: Path, taxonomy: Taxonomy) -> None:
        """Writes the mix as a file that `score.mix` reads, with its interval."""
        with (
            atomic_path(path) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["category_id", "weight", "low", "high", "before"])
            columns = (self.mix, self.low, self.high, self.before)
            shares = [[f"{value:.8f}" for value in column.tolist()] for column in columns]
            writer.writerows(zip(taxonomy.category_ids.tolist(), *shares, strict=True))


def estimate_mix(
    held: HeldOutAnswers, taxonomy: Taxonomy, opinions: Iterable[pyarrow.Table]
) -> EstimatedMix:
    """The class mix of the products that `opinions` are of.

    Raises ShelfsortError if there are none, or if they look unlike the catalogue's.
    """
    answers, z = _read(opinions)
    if not len(answers):
        raise ShelfsortError("score.mix: estimate: there is no product with an answer")
    family = taxonomy.families[:, 1]
    prior_sd = best_prior(_pairs(held, answers, family))
    products, bias_variance = _unlabelled(held, answers, family)
    shift = products.unshifted if prior_sd is None else products.fit(prior_sd)
    mix = held.fitted if prior_sd is None else np.maximum(products.mix(shift), _LEAST)
    drift = measure_drift(held.under(mix).z, z)
    if drift.unlike:
        raise ShelfsortError(
            f"score.mix: estimate: {drift.text()}; an estimate would be worth nothing. Name the "
            "mix instead: --mix natural, balanced, or a CSV category_id,weight"
        )
    # Which prior predicts best is itself by chance: the interval is wide enough for a larger one.
    wide = replace(shift, prior_sd=2 * max(prior_sd or 0.0, _LEAST_SD))
    errors = products.errors(wide, bias_variance)
    factor = np.exp(1.96 * errors)
    low, high = mix / factor, np.minimum(mix * factor, 1)
    return EstimatedMix(mix, low, high, held.fitted, len(answers), drift)


def _pairs(
    held: HeldOutAnswers, answers: Answers, family: np.ndarray
) -> list[tuple[Unlabelled, Unlabelled]]:
    """Random halves of the products, each with the bias that one half of the held-out products
    shows: what the halves have in common is neither chance nor a mistake in the bias."""
    rng, pairs = np.random.default_rng(0), []
    for _ in range(_SPLITS):
        halves = [
            _unlabelled(held[known], answers[rows], family)[0]
            for known, rows in zip(_halves(len(held), rng), _halves(len(answers), rng), strict=True)
        ]
        pairs += [(halves[0], halves[1]), (halves[1], halves[0])]
    return pairs


def _halves(size: int, rng: np.random.Generator) -> list[np.ndarray]:
    return [np.sort(rows) for rows in np.array_split(rng.permutation(size), 2)]


def _unlabelled(
    held: HeldOutAnswers, answers: Answers, family: np.ndarray
) -> tuple[Unlabelled, np.ndarray]:
    """Answers without the bias that held-out products show, and the variance [K] of that bias."""
    bias, variance = _bias(held)
    unbiased = answers.under(held.fitted, _with_bias(held.fitted, bias))
    return Unlabelled.of(unbiased, held.fitted, family), variance


def _bias(held: HeldOutAnswers) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds float [K] that each category lacks on held-out products, and their variance [K]: the
    maximum of their likelihood with a ridge penalty, by damped Newton steps that take the
    categories one by one. The penalty is what the first step says of the variance of biases beyond
    chance, plus a standard error, as few products don't show that there is none; if it is not above
    0 even so, there is no bias."""
    bias = np.zeros(len(held.fitted))
    if not len(held):
        return bias, np.full(len(bias), _WIDEST)
    counts, variance = np.bincount(held.class_index, minlength=len(bias)), 0.0
    curvature = np.full(len(bias), np.inf)
    for step in range(_NEWTON):
        answers = held.answers.under(held.fitted, _with_bias(held.fitted, bias))
        category, share = answers.top_class.ravel(), np.exp(answers.log_prob.astype(np.float64))
        gap = counts - np.bincount(category, share.ravel(), len(bias))
        curvature = np.bincount(category, (share * (1 - share)).ravel(), len(bias))
        if not step:
            known = max(float(np.square(curvature).sum()), _LEAST)
            variance = float((gap**2 - curvature).sum()) / known + float(np.sqrt(2 / known))
            variance = min(variance, _WIDEST)
            if variance <= 0:
                return bias, np.zeros(len(bias))
        towards = (gap - bias / variance) / (curvature + 1 / variance)
        bias += _DAMPED * np.clip(towards, -1, 1)
        if np.abs(towards).max() < _CLOSE:
            break
    return bias, 1 / (curvature + 1 / variance)


def _with_bias(mix: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """The mix [K] under which probabilities are as if log-odds [K] were added to them."""
    tilted = mix * np.exp(bias)
    return tilted / tilted.sum()


def _read(opinions: Iterable[pyarrow.Table]) -> tuple[Answers, np.ndarray]:
    """The answers of up to PRODUCTS products that show something, drawn by their ids, and the
    features float [N, D] of those that have them."""
    top_class, log_prob, rank, z = [], [], [], []
    for block in opinions:
        table = block.filter(pyarrow.compute.invert(block["blank"]))
        if not len(table):
            continue
        top_class.append(matrix(table["top_class"]))
        log_prob.append(matrix(table["log_prob"]))
        rank.append(sample_hash(table["product_id"].to_numpy(), "estimated mix", 0))
        if len(kept := table["z"].drop_null()):
            z.append(matrix(kept))
        if sum(map(len, rank)) > 2 * PRODUCTS:
            top_class, log_prob, rank = _first(top_class, log_prob, rank)
    if not rank:
        return Answers(np.zeros((0, 1), np.int32), np.zeros((0, 1), np.float32)), np.zeros((0, 1))
    top_class, log_prob, rank = _first(top_class, log_prob, rank)
    return Answers(top_class[0], log_prob[0]), np.concatenate(z) if z else np.zeros((0, 1))


def _first(
    top_class: list[np.ndarray], log_prob: list[np.ndarray], rank: list[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """The PRODUCTS rows of the lowest rank, each column in one piece."""
    ranks = np.concatenate(rank)
    rows = np.sort(np.argsort(ranks, kind="stable")[:PRODUCTS])
    return [np.concatenate(top_class)[rows]], [np.concatenate(log_prob)[rows]], [ranks[rows]]


def matrix(column: pyarrow.ChunkedArray) -> np.ndarray:
    """A column of lists of one length as an array [N, T]."""
    values = pyarrow.compute.list_flatten(column).to_numpy()
    return values.reshape(len(column), -1) if len(column) else np.zeros((0, 1), values.dtype)
