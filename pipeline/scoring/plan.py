"""How the products of a scoring are decided on: the class mix that they are taken to have, the
rules that accept, and what held-out products say of both."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow

from catalog.taxonomy import Taxonomy
from pipeline.config import ScoreConfig
from pipeline.decisions.allowed import Allowed
from pipeline.decisions.answers import Level, levels_of
from pipeline.decisions.estimate import EstimatedMix, estimate_mix
from pipeline.decisions.heldout import HeldOutAnswers
from pipeline.decisions.novelty import Novelty
from pipeline.decisions.promise import Promise
from pipeline.decisions.rules import Rule, promised
from pipeline.scoring import coverage
from pipeline.scoring.predictions import Decider
from stage2_xgb.addition import NONE_ADDED, Additions
from stage2_xgb.prior import mix, read_mix


@dataclass(frozen=True)
class DecisionInputs:
    """What decisions rest on: the categories; what both stages answer for held-out products (None
    if the configuration asks for nothing that needs them); the class mix [K] that is expected (None
    for stage 2's own, or if it is to be estimated); which categories each product may have (None:
    any); the categories that were added without a training; and what flags products unlike every
    category (None: nothing does)."""

    taxonomy: Taxonomy
    held: HeldOutAnswers | None = None
    mix: np.ndarray | None = None
    allowed: Allowed | None = None
    added: Additions = NONE_ADDED
    novelty: Novelty | None = None

    def decider(self, fitted: np.ndarray, target: np.ndarray, rules: Sequence[Rule]) -> Decider:
        """From the mixes [K] that opinions are under and that is expected, and rules."""
        known, others = self.taxonomy, (self.allowed, self.added, self.novelty)
        return Decider(known, fitted, target, rules, *others)


def needs_held_out(config: ScoreConfig) -> bool:
    """Whether a configuration asks for something that rests on held-out products."""
    asked = (config.mix, config.promise, config.min_confidence)
    return any(value is not None for value in asked)


def named_mix(config: ScoreConfig, natural: np.ndarray, taxonomy: Taxonomy) -> np.ndarray | None:
    """The mix [K] that `score.mix` names; None for stage 2's own, and for an estimate. `natural`
    counts products by category, [K]. Raises ConfigError if a file of weights doesn't fit the
    taxonomy."""
    if config.mix is None or config.mix == "estimate":
        return None
    named = {"natural": natural, "balanced": np.ones(len(taxonomy))}
    if config.mix in named:
        return mix(named[str(config.mix)])
    return read_mix(Path(config.mix), taxonomy, "score.mix")


@dataclass(frozen=True)
class Plan:
    """The decider, and what is said of it: `lines` for a terminal, `figures` for summary.json; the
    estimated mix if one was asked for."""

    decider: Decider
    lines: Sequence[str] = ()
    figures: dict[str, Any] = field(default_factory=dict)
    estimated: EstimatedMix | None = None


def plan(inputs: DecisionInputs, config: ScoreConfig, opinions: Iterable[pyarrow.Table]) -> Plan:
    """Decides how to decide. `opinions` are read only if a mix is to be estimated."""
    held, taxonomy = inputs.held, inputs.taxonomy
    if held is None:
        as_fitted = np.ones(len(taxonomy))
        return Plan(inputs.decider(as_fitted, as_fitted, ()))
    lines: list[str] = []
    figures: dict[str, Any] = {"mix": str(config.mix or "as trained")}
    estimated, target = None, inputs.mix
    if config.mix == "estimate":
        estimated = estimate_mix(held, taxonomy, opinions)
        target = estimated.mix
        lines += estimated.lines(taxonomy)
        figures["estimate"] = estimated.figures()
    target = held.fitted if target is None else target
    asked = held.under(target)
    if len(asked) < len(held):
        lines.append(f"{len(asked)} of {len(held)} held-out products stand for this class mix")
    rules, rule_lines, counted = _rules(asked, levels_of(taxonomy), config)
    decider = inputs.decider(held.fitted, target, rules)
    return Plan(decider, [*lines, *rule_lines], figures | counted, estimated)


def _rules(
    held: HeldOutAnswers, levels: Sequence[Level], config: ScoreConfig
) -> tuple[list[Rule], list[str], dict[str, Any]]:
    """The rules, what to say of them, and their figures."""
    if config.promise is not None:
        rules, promises = promised(held.answers, held.class_index, levels, config.promise)
        lines = [
            f"level {level.number}: {kept.text()}"
            for level, kept in zip(levels, promises, strict=True)
        ]
        return rules, lines, {"promise": _promises(config.promise, levels, promises, held)}
    if config.min_confidence is not None:
        text = coverage.text_at(coverage.costs_of(held), config.min_confidence)
        rule = Rule(levels[0], config.min_confidence)
        return [rule], [text], {"min_confidence": config.min_confidence}
    return [], [], {}


def _promises(
    precision: float, levels: Sequence[Level], promises: Sequence[Promise], held: HeldOutAnswers
) -> dict[str, Any]:
    rows = [
        {"level": level.number, **kept.to_json()}
        for level, kept in zip(levels, promises, strict=True)
    ]
    return {"precision": precision, "held_out_products": len(held), "levels": rows}
