"""Predictions: what is decided on the opinions of a scoring, part by part. It takes seconds, so
that another class mix, promise or threshold needs no scoring.
"""

import contextlib
import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from catalog.artifacts import atomic_path
from catalog.tables import write_table
from catalog.taxonomy import Taxonomy
from pipeline.decisions.allowed import Allowed
from pipeline.decisions.answers import Answers, levels_of
from pipeline.decisions.estimate import matrix
from pipeline.decisions.rules import REVIEW, Decided, Rule, decide
from pipeline.scoring.parts import opinions_path, part_path

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
)
UNSURE, NOT_ALLOWED = "unsure", "nothing_allowed"
"""Why a person decides: no level is sure enough; no allowed category is likely."""
LIKELY = 0.01
"""Probability that the allowed categories of a product have to have together."""
ACCEPTED, REVIEWED = "accepted.parquet", "review.parquet"


@dataclass(frozen=True)
class Decider:
    """How opinions become predictions: the class mix [K] that they are under (`fitted`), the one
    that is expected (`target`), the rules that accept (without any, nothing is accepted or sent to
    review), and which categories each product may have."""

    taxonomy: Taxonomy
    fitted: np.ndarray
    target: np.ndarray
    rules: Sequence[Rule] = ()
    allowed: Allowed | None = None

    def answers(self, opinions: pyarrow.Table) -> Answers:
        """The opinions of some products under the mix that is expected."""
        answers = Answers(matrix(opinions["top_class"]), matrix(opinions["log_prob"]))
        if np.array_equal(self.fitted, self.target):
            return answers
        return answers.under(self.fitted, self.target)

    def decide(self, answers: Answers, possible: np.ndarray) -> Decided:
        """What stands of some answers, of those whose allowed categories are `possible`, bool [N];
        without rules the likeliest category."""
        decided = decide(answers, self.rules or [Rule(levels_of(self.taxonomy)[0], 0.0)])
        likeliest, sure = answers.top_class[:, 0], np.exp(answers.log_prob[:, 0])
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
        found = answers.restricted(mask | ~bound[:, None])
        unchanged = np.where(bound[:, None], found.log_prob, answers.log_prob)
        return Answers(found.top_class, unchanged), free | likely

    def predictions(self, opinions: pyarrow.Table, top: int) -> pyarrow.Table:
        """The rows of one part, with the `top` likeliest categories each."""
        taxonomy, ids = self.taxonomy, self.taxonomy.category_ids
        answers, possible = self._restricted(self.answers(opinions), opinions)
        decided = self.decide(answers, possible)
        categories = [taxonomy[c] for c in answers.top_class[:, 0].tolist()]
        columns = {
            "category_id": ids[answers.top_class[:, 0]],
            "level1": [c.level1 for c in categories],
            "level2": [c.level2 for c in categories],
            "level3": [c.level3 for c in categories],
            "level": decided.level,
            "category_path": self._paths(decided),
            "confidence": decided.confidence,
            "accepted": decided.level != REVIEW if self.rules else [None] * len(answers),
            "reason": self._reasons(decided, possible),
            "top_category_id": list(ids[answers.top_class[:, :top]]),
            "top_confidence": list(np.exp(answers.log_prob[:, :top])),
            "stage1_category_id": ids[opinions["stage1_class"].to_numpy()],
            "shifted_category_id": ids[opinions["shifted_class"].to_numpy()],
        }
        same = ("product_id", "n_images", "answered_by", "blank")
        schema = PREDICTIONS.set(0, opinions.schema.field("product_id"))
        return (
            pyarrow.table(columns | {name: opinions[name] for name in same})
            .select(schema.names)
            .cast(schema)
        )

    def _reasons(self, decided: Decided, possible: np.ndarray) -> list[str | None]:
        """Why a person decides; None for what stands."""
        pairs = zip(decided.level.tolist(), possible.tolist(), strict=True)
        return [
            None if level != REVIEW else UNSURE if may_be else NOT_ALLOWED
            for level, may_be in pairs
        ]

    def _paths(self, decided: Decided) -> list[str]:
        """Names of the family that stands, from the widest down; empty for review."""
        paths = []
        for level, c in zip(decided.level.tolist(), decided.class_index.tolist(), strict=True):
            paths.append(category_path(self.taxonomy, c, level))
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


def write_predictions(
    out: Path, parts: int, decider: Decider, top: int
) -> tuple[list[int], dict[str, int]]:
    """Writes the predictions of every part; how many stand on each level, from REVIEW up to 3, and
    how many are for review by reason."""
    counts, reasons = np.zeros(4, dtype=np.int64), Counter[str]()
    for number, opinions in enumerate(opinions_of(out, parts)):
        table = decider.predictions(opinions, top)
        write_table(part_path(out, number), table)
        counts += np.bincount(table["level"].to_numpy(), minlength=4)
        reasons.update(table["reason"].drop_null().to_pylist())
    return counts.tolist(), dict(reasons)


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
                row["product_id"] = f'="{row["product_id"]}"'
                row["category_id"] = f'="{row["category_id"]}"'
                row["confidence"] = f"{row['confidence']:.4f}"
                writer.writerow(row.values())
