"""The class mix of products whose categories nobody knows, from what both stages say of them:
expectation-maximisation (Saerens, Latinne, Decaestecker 2002) on probabilities whose bias for or
against each category is taken out on held-out products first (Alexandari, Kundaje, Shrikumar 2020).

That holds if the products of a category look as they do in the catalogue, however many there are.
Whether they do is tested (`pipeline.decisions.drift`); if not, nothing is estimated.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
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

PRODUCTS = 50_000
"""Products that a mix is estimated from, at most."""
ENOUGH = 20
"""Products that a category has to have, as expected before, to be estimated by itself; the others
of its family on level 2 are estimated together."""
_BELIEF = 0.005
"""Weight of the mix before, as a share of the products: without, chance would empty categories."""
_RESAMPLES = 30
_STEPS, _CLOSE = 300, 1e-5
_LEAST = 1e-9
_NEWTON, _DAMPED = 50, 0.7
_SHOWN = 3


@dataclass(frozen=True)
class EstimatedMix:
    """A class mix [K], its 95% interval `low`, `high` [K] (of a family that was estimated together,
    its own, spread as before), the mix `before` [K]; how many `products` it is estimated from, how
    many categories by themselves (`alone`) and how many `families` together; and how the products
    compare with the catalogue's."""

    mix: np.ndarray
    low: np.ndarray
    high: np.ndarray
    before: np.ndarray
    products: int
    alone: int
    families: int
    drift: Drift

    @property
    def moved(self) -> float:
        """Share of the products that are of other categories than the mix before says."""
        return float(np.abs(self.mix - self.before).sum() / 2)

    def lines(self, taxonomy: Taxonomy) -> list[str]:
        """For a terminal."""
        order = np.argsort(-np.abs(self.mix - self.before), kind="stable")[:_SHOWN]
        most = [
            f"{taxonomy[c].name} {self.before[c]:.1%} -> {self.mix[c]:.1%} "
            f"[{self.low[c]:.1%}, {self.high[c]:.1%}]"
            for c in order.tolist()
        ]
        return [
            f"class mix, estimated from {self.products} products, {self.alone} categories alone "
            f"and {self.families} groups of rare ones: {self.moved:.1%} of the products are of "
            "other categories than was expected",
            f"what moved most: {', '.join(most)}",
            self.drift.text(),
        ]

    def figures(self) -> dict[str, Any]:
        """For summary.json."""
        return {
            "products": self.products,
            "categories_alone": self.alone,
            "groups": self.families,
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
    bias, doubt = _bias(held)
    unbiased = answers.under(held.fitted, _with_bias(held.fitted, bias))
    groups = _Groups.of(unbiased, held.fitted, taxonomy)
    fitted = groups.fit(np.ones(len(answers)))
    chance = groups.chance(fitted, doubt)
    share = _shrunk(fitted, chance, groups.shares_before)
    mix = groups.spread(share)
    drift = measure_drift(held.under(mix).z, z)
    if drift.unlike:
        raise ShelfsortError(
            f"score.mix: estimate: {drift.text()}; an estimate would be worth nothing. Name the "
            "mix instead: --mix natural, balanced, or a CSV category_id,weight"
        )
    error = 1.96 * fitted * np.sqrt(chance)
    low, high = groups.spread(np.maximum(share - error, 0)), groups.spread(share + error)
    alone = int((np.bincount(groups.group) == 1).sum())
    families = len(share) - alone
    return EstimatedMix(mix, low, high, held.fitted, len(answers), alone, families, drift)


def _bias(held: HeldOutAnswers) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds float [K] that each category lacks on held-out products, and their variance [K]: the
    maximum of their likelihood with a ridge penalty, by damped Newton steps that take the
    categories one by one. The penalty is what the first step says of the variance of biases beyond
    chance, plus a standard error, as few products don't show that there is none; if it is not above
    0 even so, there is no bias."""
    bias = np.zeros(len(held.fitted))
    counts, variance = np.bincount(held.class_index, minlength=len(bias)), 0.0
    curvature = np.full(len(bias), np.inf)
    for step in range(_NEWTON if len(held) else 0):
        answers = held.answers.under(held.fitted, _with_bias(held.fitted, bias))
        category, share = answers.top_class.ravel(), np.exp(answers.log_prob.astype(np.float64))
        gap = counts - np.bincount(category, share.ravel(), len(bias))
        curvature = np.bincount(category, (share * (1 - share)).ravel(), len(bias))
        if not step:
            known = max(float(np.square(curvature).sum()), _LEAST)
            variance = float((gap**2 - curvature).sum()) / known + float(np.sqrt(2 / known))
            if variance <= 0:
                return bias, np.zeros(len(bias))
        bias += _DAMPED * (gap - bias / variance) / (curvature + 1 / variance)
    return bias, 1 / (curvature + 1 / variance) if variance else np.zeros(len(bias))


def _with_bias(mix: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """The mix [K] under which probabilities are as if log-odds [K] were added to them."""
    tilted = mix * np.exp(bias)
    return tilted / tilted.sum()


def _shrunk(share: np.ndarray, chance: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Shares [G] as far as chance doesn't explain how they differ from those before: each log-ratio
    times the part of its variance that is not `chance` [G] (empirical Bayes; a group's part in the
    variance between groups is its share)."""
    log_ratio = np.log(share / before)
    spread = max(0.0, float((before * (log_ratio**2 - chance)).sum()))
    shares = before * np.exp(log_ratio * spread / (spread + chance))
    return shares / shares.sum()


@dataclass(frozen=True)
class _Groups:
    """What is estimated: G groups of categories, `group` int [K], of which each has a share of the
    mix `before` [K]; the groups of the answers' likeliest categories int [N, T], their
    probabilities float [N, T], and what these leave, float [N]."""

    group: np.ndarray
    before: np.ndarray
    likeliest: np.ndarray
    share: np.ndarray
    beyond: np.ndarray

    @classmethod
    def of(cls, answers: Answers, before: np.ndarray, taxonomy: Taxonomy) -> "_Groups":
        """A category with enough products is a group, the others of its family another one."""
        share = np.exp(answers.log_prob.astype(np.float64))
        expected = np.bincount(answers.top_class.ravel(), share.ravel(), len(before))
        alone = expected >= ENOUGH
        family = np.where(alone, np.arange(len(before)), len(before) + taxonomy.families[:, 1])
        group = np.unique(family, return_inverse=True)[1]
        beyond = np.maximum(1 - share.sum(axis=1), 0)
        return cls(group, before, group[answers.top_class], share, beyond)

    @property
    def shares_before(self) -> np.ndarray:
        """Share of each group in the mix before, float [G]."""
        return np.bincount(self.group, self.before)

    def chance(self, fitted: np.ndarray, doubt: np.ndarray) -> np.ndarray:
        """The variance float [G] of the logarithms of shares `fitted` [G]: over resampled products
        (bootstrap), and by the variance `doubt` [K] of each category's bias.

        What a bias of 1 does to the logarithm of a share is the variance over resamples against
        that of as many products whose groups are known, less 1: nothing where groups are sure.
        """
        rng, n = np.random.default_rng(0), len(self.share)
        weights = rng.poisson(1.0, (_RESAMPLES, n)).astype(np.float64)
        shares = np.array([self.fit(weight, fitted) for weight in weights])
        variance = np.var(np.log(shares), axis=0) + _LEAST
        effect = np.maximum(variance * n * fitted - 1, 0)
        within_group = self.before / self.shares_before[self.group]
        return variance + effect**2 * np.bincount(self.group, within_group**2 * doubt)

    def fit(self, weight: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
        """The share of each group, float [G], among products of some weight [N].

        What a product's likeliest categories leave is of all others, as before.
        """
        before = self.shares_before
        current = before if start is None else start
        total = weight.sum() * (1 + _BELIEF)
        for _ in range(_STEPS):
            odds = self.share * (current / before)[self.likeliest]
            scale = weight / (odds.sum(axis=1) + self.beyond)
            seen = np.bincount(self.likeliest.ravel(), (odds * scale[:, None]).ravel(), len(before))
            seen += ((self.beyond * scale).sum() + _BELIEF * weight.sum()) * before
            last, current = current, seen / total
            if np.abs(current - last).sum() < _CLOSE:
                break
        return current

    def spread(self, share: np.ndarray) -> np.ndarray:
        """Shares [G] of groups as shares [K] of categories, within a group as before."""
        return np.maximum(self.before * (share / self.shares_before)[self.group], _LEAST)


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
