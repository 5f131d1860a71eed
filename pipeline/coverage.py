"""What a threshold of confidence costs: the share of products it accepts and how many of these are right, on val_b, never test.

The table is stored with the model (stage2/coverage.json) and says what `shelfsort score --min-confidence` may expect; the scored
folder is then split into accepted.parquet and review.parquet.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute
import pyarrow.parquet

from catalog.artifacts import atomic_path, read_sealed, sha256_file, write_sealed
from catalog.errors import ArtifactError
from catalog.intervals import clustered_share
from features.store import FeatureStore
from pipeline.parts import PREDICTIONS, part_path
from stage2_xgb.bundle import Bundle
from stage2_xgb.dataset import Views
from stage2_xgb.items import pool
from stage2_xgb.prior import importance
from stage2_xgb.refine import refine

FILES = ("accepted.parquet", "review.parquet")


THRESHOLDS = (np.arange(101) / 100).tolist()


@dataclass(frozen=True)
class Cost:
    """At one threshold: `coverage`, the share of items at least as confident; `accuracy`, the share of these that is right
    (None where there is none), with its 95% interval `low`, `high`; `n`, how many items these are."""

    threshold: float
    coverage: float
    accuracy: float | None
    low: float | None
    high: float | None
    n: int

    def text(self) -> str:
        """For a terminal; the items are val_b's products."""
        accepted = f"confidence >= {self.threshold:.2f}: {self.coverage:.0%} of products"
        if self.accuracy is None:
            return f"{accepted} on val_b"
        return f"{accepted}, {self.accuracy:.1%} of them right [{self.low:.1%}, {self.high:.1%}] on val_b (n {self.n})"


def measure(stores: Sequence[FeatureStore], bundle: Bundle, target: np.ndarray) -> list[Cost]:
    """The table of products on val_b, weighted to the class mix `target` [K]."""
    parts = []
    for images in Views(stores).blocks("val_b", fit_only=True):
        pooled = pool(images, bundle.sharpness)
        answer = refine(bundle, pooled, "product").two_stage
        parts.append(
            (pooled.class_index, pooled.product_id, np.exp(answer.max(axis=1)), answer.argmax(axis=1) == pooled.class_index)
        )
    class_index, product_id, confidence, right = (np.concatenate(column) for column in zip(*parts, strict=True))
    weight = importance(class_index, target) if len(class_index) else np.zeros(0)
    return curve(confidence, right, weight, product_id)


def curve(confidence: np.ndarray, right: np.ndarray, weight: np.ndarray, group: np.ndarray) -> list[Cost]:
    """What each of THRESHOLDS costs on some items: `confidence` float [N] of the answer, `right` bool [N] whether it is the
    truth, `weight` float [N], `group` int [N] of dependent items (catalog.intervals). Accepted is a confidence >= the
    threshold."""
    group, total = np.unique(group, return_inverse=True)[1], weight.sum()
    costs = []
    for threshold in THRESHOLDS:
        rows = confidence >= threshold
        accepted = clustered_share(right[rows], weight[rows], group[rows])
        coverage = float(weight[rows].sum() / total) if len(weight) else 0.0
        costs.append(Cost(threshold, coverage, *accepted))
    return costs


def path_of(stage2: Path) -> Path:
    """Where the table lies."""
    return stage2 / "coverage.json"


def save(stage2: Path, table: Sequence[Cost]) -> None:
    """Writes the table beside the bundle that it was measured with."""
    rows = [asdict(cost) for cost in table]
    write_sealed(path_of(stage2), {"made_from": _origin(stage2), "unit": "product", "split": "val_b", "rows": rows})


def is_current(stage2: Path) -> bool:
    """Whether the table is there, whole, and of this very bundle."""
    try:
        return read_sealed(path_of(stage2), "").get("made_from") == _origin(stage2)
    except ArtifactError:
        return False


def read(stage2: Path, rebuild: str) -> list[Cost]:
    """The table. Raises ArtifactError where it is missing, damaged or of another bundle."""
    path = path_of(stage2)
    content = read_sealed(path, rebuild)
    if content.get("made_from") != _origin(stage2):
        raise ArtifactError(path, "measured with another stage 2 than is there now", rebuild)
    return [Cost(**row) for row in content["rows"]]


def text_at(costs: Sequence[Cost], threshold: float) -> str:
    """What a threshold costs, for a terminal: as measured there, or at the highest threshold below it, which is named."""
    cost = max((cost for cost in costs if cost.threshold <= threshold), key=lambda cost: cost.threshold)
    return cost.text() + ("" if cost.threshold == threshold else f"; {threshold:g} lies above that and was not measured itself")


def _origin(stage2: Path) -> dict[str, str]:
    return {"stage2": sha256_file(stage2 / "manifest.json")}


def split(out: Path, parts: int, threshold: float) -> tuple[int, int]:
    """Writes accepted.parquet and review.parquet from all parts, and returns their rows."""
    counts = [0, 0]
    with contextlib.ExitStack() as stack:
        targets = [stack.enter_context(atomic_path(out / name)) for name in FILES]
        writers = [stack.enter_context(pyarrow.parquet.ParquetWriter(target, PREDICTIONS)) for target in targets]
        for number in range(parts):
            table = pyarrow.parquet.read_table(part_path(out, number))
            sure = pyarrow.compute.greater_equal(table["confidence"], pyarrow.scalar(threshold, pyarrow.float32()))
            for place, mask in enumerate((sure, pyarrow.compute.invert(sure))):
                rows = table.filter(mask)
                writers[place].write_table(rows)
                counts[place] += len(rows)
    return counts[0], counts[1]
