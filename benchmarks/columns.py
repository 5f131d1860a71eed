"""What catalogue columns bring, on the test split of finished runs with a view of columns: to the
pool of experts, with values removed at random, and to reclassifiers on top.

In: runs of one experiment, with different seeds. Printed: a row for each run and share of removed
values, top-1 and the change over the same pool without any column, in points; and what
reclassifiers change, on held-out folds and on test, if all answered and as the gate lets them. Run:
python -m benchmarks.columns runs/NAME [runs/NAME ...]
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record
from catalog.artifacts import read_json
from catalog.errors import ShelfsortError
from catalog.intervals import Estimate, clustered_change
from features.columns import MISSING
from pipeline.config import load_config
from pipeline.run_folder import RunFolder
from pipeline.second_stage import class_mixes
from stage2_xgb.bundle import Bundle
from stage2_xgb.dataset import Views
from stage2_xgb.expert_pool import ExpertPool
from stage2_xgb.gate import OWN, POOL, STAGE1
from stage2_xgb.items import ItemBlock, product_starts
from stage2_xgb.out_of_fold import FILE, read_judged
from stage2_xgb.prior import importance
from stage2_xgb.refine import answer_with_all, refine
from stage2_xgb.rivals import LOGISTIC_COLUMNS

REMOVED = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Share of the values that are removed at random."""


def main() -> None:
    """Prints the rows of each run."""
    parser = record.parser(__doc__, smoke=None)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    options = parser.parse_args()
    figures: dict[str, Any] = {"split": "test", "runs": []}
    for run in map(RunFolder, options.runs):
        bundle = Bundle.open(run.stage2)
        views = Views([run.view(name).features for name in bundle.made_from["views"]])
        config = load_config(run.folder / "config.yaml").stage2
        target = class_mixes(run).target(config, "image", run.store.taxonomy)
        measured = of_run(bundle, list(views.blocks("test", fit_only=False)), target)
        metrics = read_json(run.metrics_path, "evaluate")
        measured["two_stage_over_logistic"] = _over_logistic(metrics)
        figures["runs"].append({"run": run.folder.name, **measured})
        print("\n".join(f"{run.folder.name}: {line}" for line in lines(measured)), flush=True)
        precision = views.first.computed_with["precision"]
    record.save(options.json, figures, precision=precision, rounds=len(options.runs))


def of_run(bundle: Bundle, blocks: Sequence[ItemBlock], target: np.ndarray) -> dict[str, Any]:
    """The figures of one run, of products; what is counted on folds is weighted to the mix `target`
    [K]."""
    full = list(_answers(bundle, blocks))
    truth, product = (np.concatenate([x[name] for x in full]) for name in ("truth", "product"))
    right = {
        name: np.concatenate([x[name] for x in full]) == truth
        for name in (STAGE1, POOL, OWN, "two_stage")
    }
    if bundle.pool is None or bundle.columns is None:
        raise ShelfsortError(f"{bundle.folder}: expected a pool of experts that reads columns")
    bare = _pool_right(bundle.pool, blocks, 1.0)
    ones, removed = np.ones(len(truth)), []
    for share in REMOVED:
        now = _pool_right(bundle.pool, blocks, share)
        change = clustered_change(now.astype(float) - bare, ones, product)
        removed.append({"removed": share, "top1": float(now.mean()), **_json(change)})
    held_out = read_judged(bundle.folder / FILE)
    over = held_out.right[OWN].astype(float) - held_out.right[POOL]
    folds = clustered_change(over, importance(held_out.class_index, target), held_out.product_id)

    def change_of(name: str, before: str) -> dict[str, Any]:
        return _json(clustered_change(right[name].astype(float) - right[before], ones, product))

    return {
        "products": len(truth),
        "pool_over_shifted": change_of(POOL, STAGE1),
        "two_stage_over_shifted": change_of("two_stage", STAGE1),
        "pool": removed,
        "reclassifiers_over_pool": {
            "folds": _json(folds),
            "test": change_of(OWN, POOL),
            "test_gated": change_of("two_stage", POOL),
        },
    }


def _over_logistic(metrics: dict[str, Any]) -> dict[str, Any]:
    """The change that evaluate measured, per product, natural mix."""
    changes = metrics["product"]["natural"]["changes"]
    name = f"two_stage_over_{LOGISTIC_COLUMNS}"
    if name not in changes:
        raise ShelfsortError("evaluation/metrics.json: no rivals; run shelfsort evaluate --rivals")
    return dict(changes[name]["top1"])


def _answers(bundle: Bundle, blocks: Sequence[ItemBlock]) -> Iterator[dict[str, np.ndarray]]:
    """Class of each product, by each system and in truth."""
    for images in blocks:
        pooled, opinions = answer_with_all(bundle, images, "product")
        yield {
            "truth": pooled.class_index,
            "product": pooled.product_id,
            "two_stage": refine(bundle, images, "product").two_stage.argmax(axis=1),
            **{name: opinion.argmax(axis=1) for name, opinion in opinions.items()},
        }


def _pool_right(pool: ExpertPool, blocks: Sequence[ItemBlock], share: float) -> np.ndarray:
    """Whether the pool is right about each product with a share of the values removed, bool."""
    rng, right = np.random.default_rng(0), []
    for images in blocks:
        products, row = np.unique(images.product_id, return_inverse=True)
        lost = rng.random((len(products), images.codes.shape[1])) < share
        codes = np.where(lost[row], np.float32(MISSING), images.codes)
        log_probs = pool.log_probs(replace(images, codes=codes), "product")
        truth = images.class_index[product_starts(images.product_id)]
        right.append(log_probs.argmax(axis=1) == truth)
    return np.concatenate(right)


def lines(measured: dict[str, Any]) -> Iterator[str]:
    """For the terminal."""
    gain = _points(measured["two_stage_over_shifted"])
    yield f"{measured['products']} products, two-stage over adjusted {gain}"
    for row in measured["pool"]:
        yield f"{row['removed']:.0%} removed: pool {row['top1']:.4f}, over photos {_points(row)}"
    yield f"two-stage over a logistic regression: {_points(measured['two_stage_over_logistic'])}"
    for name, change in measured["reclassifiers_over_pool"].items():
        yield f"reclassifiers over the pool, {name}: {_points(change)}"


def _json(change: Estimate) -> dict[str, float | None]:
    return {name: getattr(change, name) for name in ("value", "low", "high")}


def _points(change: dict[str, Any]) -> str:
    value, low, high = (100 * (change[name] or 0.0) for name in ("value", "low", "high"))
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


if __name__ == "__main__":
    main()
