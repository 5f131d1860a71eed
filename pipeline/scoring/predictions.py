"""Predictions: what is decided on the opinions of a scoring, part by part. It takes seconds, so
that another class mix, promise or threshold needs no scoring. CONTRIBUTING.md says how to add a
column.
"""

import contextlib
import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from catalog.artifacts import atomic_path
from catalog.tables import write_table
from catalog.taxonomy import Taxonomy
from pipeline.decisions.allowed import Allowed
from pipeline.decisions.answers import Answers, beside, levels_of
from pipeline.decisions.estimate import matrix
from pipeline.decisions.novelty import Novelty
from pipeline.decisions.rules import REVIEW, Decided, Rule, decide
from pipeline.scoring.parts import opinions_path, part_path
from stage2_xgb.addition import NONE_ADDED, Additions

PREDICTIONS = pyarrow.schema(
    [
        ("product_id", pyarrow.int64()),
        ("n_images", pyarrow.int32()),
        ("category_id", pyarrow.int64()),
        ("level1", pyarrow.string()),
        ("level2", pyarrow.string()),
        ("level3", pyarrow.string()),
        ("level", pyarrow.int8()),
        ("category_path", pyarrow.string()),
        ("confidence", pyarrow.float32()),
        ("accepted", pyarrow.bool_()),
        ("reason", pyarrow.string()),
        ("answered_by", pyarrow.string()),
        ("novel", pyarrow.bool_()),
        ("top_category_id", pyarrow.list_(pyarrow.int64())),
        ("top_confidence", pyarrow.list_(pyarrow.float32())),
        ("stage1_category_id", pyarrow.int64()),
        ("shifted_category_id", pyarrow.int64()),
        ("blank", pyarrow.bool_()),
    ]
)
CSV_COLUMNS = (
    "product_id",
    "category_id",
    "level1",
    "level2",
    "level3",
    "level",
    "category_path",
    "confidence",
    "accepted",
    "reason",
    "answered_by",
    "novel",
)
UNSURE, NOT_ALLOWED, ADDED = "unsure", "nothing_allowed", "added_category"
"""Why a person decides: no level is sure enough; no allowed category is likely; the likeliest
category was added without a training, so that nothing is known of how often it is right."""
ANSWERED_BY_ADDED = "added"
LIKELY = 0.01
"""Probability that the allowed categories of a product have to have together."""
ACCEPTED, REVIEWED = "accepted.parquet", "review.parquet"


@dataclass(frozen=True)
class Decider:
    """How opinions become predictions: the class mix [K] that they are under (`fitted`), the one
    that is expected (`target`), the rules that accept (without any, nothing is accepted or sent to
    review), which categories each product may have, those added to the taxonomy's, and what flags
    products unlike all of these."""

    taxonomy: Taxonomy
    fitted: np.ndarray
    target: np.ndarray
    rules: Sequence[Rule] = ()
    allowed: Allowed | None = None
    added: Additions = NONE_ADDED
    novelty: Novelty | None = None

    @cached_property
    def every(self) -> Taxonomy:
        """The categories, and the added ones after them."""
        return self.added.taxonomy(self.taxonomy)

    def answers(self, opinions: pyarrow.Table) -> Answers:
        """The opinions of some products under the mix that is expected, added categories among
        them."""
        answers = Answers(matrix(opinions["top_class"]), matrix(opinions["log_prob"]))
        if not np.array_equal(self.fitted, self.target):
            answers = answers.under(self.fitted, self.target)
        if not len(self.added):
            return answers
        return answers.with_added(matrix(opinions["added"]), len(self.taxonomy))

    def experimental(self, class_index: np.ndarray) -> np.ndarray:
        """Which classes [N] were added, bool [N]."""
        return class_index >= len(self.taxonomy)

    def decide(self, answers: Answers, possible: np.ndarray) -> Decided:
        """What stands of some answers, of those whose allowed categories are `possible`, bool [N];
        without rules the likeliest category."""
        rules = self.rules or [Rule(levels_of(self.taxonomy)[0], 0.0)]
        further = [Rule(beside(rule.level, len(self.added)), rule.threshold) for rule in rules]
        decided = decide(answers, further)
        likeliest, sure = answers.top_class[:, 0], np.exp(answers.log_prob[:, 0])
        if self.rules:
            possible = possible & ~self.experimental(decided.class_index)
        return Decided(
            np.where(possible, decided.level, REVIEW).astype(np.int8),
            np.where(possible, decided.class_index, likeliest),
            np.where(possible, decided.confidence, sure),
        )

    def _restricted(self, answers: Answers, opinions: pyarrow.Table) -> tuple[Answers, np.ndarray]:
        """The answers among the allowed categories, and of which products one is likely."""
        if self.allowed is None:
            return answers, np.ones(len(answers), dtype=bool)
        mask = self.allowed.mask(opinions["product_id"].to_pylist(), answers.top_class)
        free, likely = mask.all(axis=1), answers.mass(mask) >= LIKELY
        bound = likely & ~free
        restricted = answers.restricted(mask | ~bound[:, None])
        unchanged = np.where(bound[:, None], restricted.log_prob, answers.log_prob)
        return Answers(restricted.top_class, unchanged), free | likely

    def predictions(self, opinions: pyarrow.Table, top: int) -> pyarrow.Table:
        """The rows of one part, with the `top` likeliest categories each."""
        taxonomy, ids = self.every, self.every.category_ids
        answers, possible = self._restricted(self.answers(opinions), opinions)
        decided = self.decide(answers, possible)
        categories = [taxonomy[c] for c in answers.top_class[:, 0].tolist()]
        columns = {
            **{name: opinions[name] for name in ("product_id", "n_images", "blank")},
            "category_id": ids[answers.top_class[:, 0]],
            "level1": [c.level1 for c in categories],
            "level2": [c.level2 for c in categories],
            "level3": [c.level3 for c in categories],
            "level": decided.level,
            "category_path": self._paths(decided),
            "confidence": decided.confidence,
            "accepted": decided.level != REVIEW if self.rules else [None] * len(answers),
            "reason": self._reasons(decided, possible, answers.top_class[:, 0]),
            "answered_by": np.where(
                self.experimental(answers.top_class[:, 0]),
                ANSWERED_BY_ADDED,
                opinions["answered_by"].to_numpy(),
            ),
            "novel": self._novel(opinions),
            "top_category_id": list(ids[answers.top_class[:, :top]]),
            "top_confidence": list(np.exp(answers.log_prob[:, :top])),
            "stage1_category_id": ids[opinions["stage1_class"].to_numpy()],
            "shifted_category_id": ids[opinions["shifted_class"].to_numpy()],
        }
        schema = PREDICTIONS.set(0, opinions.schema.field("product_id"))
        return pyarrow.table(columns).select(schema.names).cast(schema)

    def _novel(self, opinions: pyarrow.Table) -> Sequence[bool | None] | np.ndarray:
        """Which products are unlike every category; None if nothing says so."""
        if self.novelty is None:
            return [None] * len(opinions)
        return self.novelty(opinions["distance"].to_numpy())

    def _reasons(
        self, decided: Decided, possible: np.ndarray, likeliest: np.ndarray
    ) -> list[str | None]:
        """Why a person decides; None for what stands."""
        reasons = np.full(len(possible), UNSURE, dtype=object)
        reasons[self.experimental(likeliest)] = ADDED
        reasons[~possible] = NOT_ALLOWED
        reasons[decided.level != REVIEW] = None
        return reasons.tolist()

    def _paths(self, decided: Decided) -> list[str]:
        """Names of the family that stands, from the widest down; empty for review."""
        paths = []
        for level, c in zip(decided.level.tolist(), decided.class_index.tolist(), strict=True):
            paths.append(category_path(self.every, c, level))
        return paths


def category_path(taxonomy: Taxonomy, class_index: int, level: int) -> str:
    """Names down to a level, such as `Shoes > Boots`; the id of a category without names."""
    if level == REVIEW:
        return ""
    category = taxonomy[class_index]
    names = (category.level1, category.level2, category.level3)[:level]
    return " > ".join(name for name in names if name) or str(category.category_id)


def opinions_of(out: Path, parts: int) -> Iterator[pyarrow.Table]:
    """The opinions of every part."""
    return (pyarrow.parquet.read_table(opinions_path(out, number)) for number in range(parts))


class Counts(NamedTuple):
    """How many predictions stand on each of `levels`, from REVIEW up to 3; how many are for review,
    by reason; how many name an added category, by its id; and how many are novel."""

    levels: tuple[int, ...]
    reasons: dict[str, int]
    added: dict[str, int]
    novel: int


def write_predictions(out: Path, parts: int, decider: Decider, top: int) -> Counts:
    """Writes the predictions of every part, and counts them."""
    levels, reasons, novel = np.zeros(4, dtype=np.int64), Counter[str](), 0
    added = dict.fromkeys(map(str, decider.added.category_ids.tolist()), 0)
    for number, opinions in enumerate(opinions_of(out, parts)):
        table = decider.predictions(opinions, top)
        write_table(part_path(out, number), table)
        levels += np.bincount(table["level"].to_numpy(), minlength=4)
        reasons.update(table["reason"].drop_null().to_pylist())
        novel += pyarrow.compute.sum(table["novel"]).as_py() or 0
        for category_id in added:
            answers = pyarrow.compute.equal(table["category_id"], int(category_id))
            added[category_id] += pyarrow.compute.sum(answers).as_py() or 0
    return Counts(tuple(levels.tolist()), dict(reasons), added, novel)


def split(out: Path, parts: int) -> None:
    """Writes accepted.parquet and review.parquet from all parts."""
    schema = pyarrow.parquet.read_schema(part_path(out, 0))
    with contextlib.ExitStack() as stack:
        targets = [stack.enter_context(atomic_path(out / name)) for name in (ACCEPTED, REVIEWED)]
        writers = [
            stack.enter_context(pyarrow.parquet.ParquetWriter(target, schema)) for target in targets
        ]
        for number in range(parts):
            table = pyarrow.parquet.read_table(part_path(out, number))
            accepted = table["accepted"]
            for writer, mask in zip(
                writers, (accepted, pyarrow.compute.invert(accepted)), strict=True
            ):
                writer.write_table(table.filter(mask))


def write_csv(path: Path, out: Path, parts: int) -> None:
    """Writes the predictions of all parts for spreadsheets: UTF-8 with a byte-order mark, ids as
    text (`="..."`), which would otherwise be rounded to 15 digits."""
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8-sig") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(CSV_COLUMNS)
        for number in range(parts):
            table = pyarrow.parquet.read_table(part_path(out, number), columns=list(CSV_COLUMNS))
            for row in table.to_pylist():
                row["product_id"] = _as_text(row["product_id"])
                row["category_id"] = _as_text(row["category_id"])
                row["confidence"] = f"{row['confidence']:.4f}"
                writer.writerow(row.values())


def _as_text(value: object) -> str:
    """A cell that spreadsheets keep as this text, whatever is in it."""
    quoted = str(value).replace('"', '""')
    return f'="{quoted}"'
