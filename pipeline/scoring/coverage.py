"""What a threshold of confidence costs: the share of products it accepts and how many of these are
right, on val_b, never test.

The table is stored with the model (stage2/coverage.json) and says what `shelfsort score
--min-confidence` may expect; the scored folder is then split into accepted.parquet and
review.parquet. Who answers for a product of val_b is decided on other products
(`stage2_xgb.heldout.ValB.own`), so that no product is counted where it decided.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute
import pyarrow.parquet

from catalog.arithmetic import one_blas_thread
from catalog.artifacts import atomic_path, read_sealed, sha256_file, write_sealed
from catalog.errors import ArtifactError
from catalog.intervals import clustered_share
from features.store import FeatureStore
from pipeline.scoring.parts import PREDICTIONS, part_path
from stage2_xgb.bundle import Bundle
from stage2_xgb.config import Stage2Config
from stage2_xgb.dataset import Views
from stage2_xgb.gate import OWN, POOL
from stage2_xgb.heldout import ValB
from stage2_xgb.out_of_fold import FILE, read_judged
from stage2_xgb.prior import importance

FILES = ("accepted.parquet", "review.parquet")
SCHEMA = 2
THRESHOLDS = np.round(np.arange(101) / 100, 2)


@dataclass(frozen=True)
class Cost:
    """At one threshold: `coverage`, the share of items at least as confident; `accuracy`, the share
    of these that is right (None if there is none), with its 95% interval `low`, `high`; `n`, how
    many items these are."""

    threshold: float
    coverage: float
    accuracy: float | None
    low: float | None
    high: float | None
    n: int

    def text(self) -> str:
        """For a terminal; of products of val_b."""
        accepted = f"confidence >= {self.threshold:.2f}: {self.coverage:.0%} of products"
        if self.accuracy is None:
            return f"{accepted} on val_b"
        return (
            f"{accepted}, {self.accuracy:.1%} of them right [{self.low:.1%}, {self.high:.1%}] "
            f"on val_b (n {self.n}, cross-fitted over products)"
        )


def curve(
    confidence: np.ndarray,
    right: np.ndarray,
    weight: np.ndarray,
    group: np.ndarray,
    share: np.ndarray | None = None,
) -> list[Cost]:
    """What each of THRESHOLDS costs, one row per threshold.

    The arrays [N] have one row per answer: its confidence, whether it is right, the weight of its
    item, the group of its item (the product of an image: items of one group are dependent), and the
    share of the item that has this answer, if several were judged; by default all of it.
    """
    share = np.ones(len(confidence)) if share is None else share
    mass, group = weight * share, np.unique(group, return_inverse=True)[1]
    total = max(float(mass.sum()), 1e-300)
    costs = []
    for threshold in THRESHOLDS.tolist():
        rows = confidence >= threshold
        accepted = clustered_share(right[rows], mass[rows], group[rows])
        coverage, n = float(mass[rows].sum()) / total, round(float(share[rows].sum()))
        costs.append(Cost(threshold, coverage, accepted.value, accepted.low, accepted.high, n))
    return costs


@one_blas_thread()
def measure(
    stores: Sequence[FeatureStore], bundle: Bundle, target: np.ndarray, config: Stage2Config
) -> list[Cost]:
    """The table of products of val_b, weighted to the class mix `target` [K]."""
    val_b = ValB.of(bundle, Views(stores), read_judged(bundle.folder / FILE), target)
    products = val_b.of_unit("product")
    held, own = val_b.held[products], val_b.own(bundle, config)[products]
    weight = importance(held.class_index, target)
    confidence = np.concatenate([val_b.confidence[name][products] for name in (POOL, OWN)])
    right = np.concatenate([held.right[name] for name in (POOL, OWN)])
    share = np.concatenate([1 - own, own])
    return curve(confidence, right, np.tile(weight, 2), np.tile(held.product_id, 2), share)


def path_of(stage2: Path) -> Path:
    """Where the table lies."""
    return stage2 / "coverage.json"


def save(stage2: Path, table: Sequence[Cost]) -> None:
    """Writes the table beside the bundle that it was measured with."""
    rows = [asdict(cost) for cost in table]
    header = {
        "schema": SCHEMA,
        "made_from": _origin(stage2),
        "unit": "product",
        "split": "val_b",
        "cross_fitted": True,
    }
    write_sealed(path_of(stage2), header | {"rows": rows})


def is_current(stage2: Path) -> bool:
    """Whether the table is there, whole, and of this very bundle."""
    try:
        return read_sealed(path_of(stage2), "stage2", SCHEMA).get("made_from") == _origin(stage2)
    except ArtifactError:
        return False


def read(stage2: Path) -> list[Cost]:
    """The table. Raises ArtifactError if it is missing, damaged or of another bundle; `stage2`
    measures it again without training."""
    path = path_of(stage2)
    try:
        content = read_sealed(path, "stage2", SCHEMA)
    except ArtifactError as error:
        raise ArtifactError(path, error.problem, "stage2", resume=True) from error
    if content.get("made_from") != _origin(stage2):
        problem = "measured with another stage 2 than is there now"
        raise ArtifactError(path, problem, "stage2", resume=True)
    return [Cost(**row) for row in content["rows"]]


def text_at(costs: Sequence[Cost], threshold: float) -> str:
    """What a threshold costs, for a terminal: as measured there, or at the highest threshold below
    it, which is named."""
    if not costs[0].n:
        return "val_b has no product, so that nobody knows what a threshold costs"
    known = [cost for cost in costs if cost.threshold <= threshold]
    cost = max(known, key=lambda cost: cost.threshold)
    if cost.threshold == threshold:
        return cost.text()
    return f"{cost.text()}; {threshold:g} lies above that and was not measured itself"


def _origin(stage2: Path) -> dict[str, str]:
    return {"stage2": sha256_file(stage2 / "manifest.json")}


def split(out: Path, parts: int, threshold: float) -> tuple[int, int]:
    """Writes accepted.parquet and review.parquet from all parts, and returns their rows."""
    counts = [0, 0]
    with contextlib.ExitStack() as stack:
        targets = [stack.enter_context(atomic_path(out / name)) for name in FILES]
        writers = [
            stack.enter_context(pyarrow.parquet.ParquetWriter(target, PREDICTIONS))
            for target in targets
        ]
        for number in range(parts):
            table = pyarrow.parquet.read_table(part_path(out, number))
            sure = pyarrow.compute.greater_equal(
                table["confidence"], pyarrow.scalar(threshold, pyarrow.float32())
            )
            for place, mask in enumerate((sure, pyarrow.compute.invert(sure))):
                rows = table.filter(mask)
                writers[place].write_table(rows)
                counts[place] += len(rows)
    return counts[0], counts[1]
