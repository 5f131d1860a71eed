"""What the last fit for production (`stage2 --final`) brings, by cross-validation: the experts
fitted on all splits but a fold of the products that stage 1 never saw, judged on test's products of
that fold, beside the pool as it was evaluated.

In: finished runs, with different seeds. Printed: top-1 of both and the paired change, by the pool
alone. Run: OMP_NUM_THREADS=1 python -m benchmarks.last_fit runs/NAME [runs/NAME ...]
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record
from catalog.arithmetic import one_blas_thread
from catalog.errors import ShelfsortError
from catalog.intervals import clustered_change, clustered_share
from catalog.splits import SPLITS
from pipeline.config import load_config
from pipeline.run_folder import RunFolder
from stage2_xgb.bundle import Bundle
from stage2_xgb.dataset import Views
from stage2_xgb.expert_pool import ExpertPool
from stage2_xgb.expert_rows import FOLDS, product_fold, read_rows
from stage2_xgb.fit_experts import fit_linear
from stage2_xgb.items import ItemBlock, product_starts


def main() -> None:
    """Prints a row for each run."""
    parser = record.parser(__doc__, smoke=None)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    options = parser.parse_args()
    by_run = {run.folder.name: of_run(run) for run in map(RunFolder, options.runs)}
    figures = {"split": "test", "unit": "product", "runs": by_run}
    record.save(options.json, figures, precision="fp32", rounds=len(by_run))


@one_blas_thread()
def of_run(run: RunFolder) -> dict[str, Any]:
    """Top-1 as evaluated and after the last fit, out of fold, and the change, of test's products in
    the natural mix."""
    seed = load_config(run.folder / "config.yaml").stage2.seed
    bundle = Bundle.open(run.stage2)
    if bundle.pool is None:
        raise ShelfsortError(f"{bundle.folder}: expected a pool of experts, found none")
    views = Views([run.view(name).features for name in bundle.made_from["views"]])
    pools = by_fold(views, bundle.pool, seed)
    blocks = views.blocks("test", fit_only=False)
    parts = [_right(block, bundle.pool, pools, seed) for block in blocks]
    before, after = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    ones, group = np.ones(len(before)), np.arange(len(before))
    figures = {
        "evaluated": clustered_share(before, ones, group).to_json(),
        "refitted": clustered_share(after, ones, group).to_json(),
        "change": clustered_change(after.astype(float) - before, ones, group).to_json(),
    }
    print(run.folder.name, len(before), figures, flush=True)
    return figures


def by_fold(views: Views, pool: ExpertPool, seed: int) -> list[ExpertPool]:
    """The pool of each fold, with experts of all splits but the fold's products; temperatures and
    weights as they are."""
    rows = read_rows(views, seed, 1, SPLITS)
    return [
        replace(
            pool,
            linear=tuple(
                replace(new, inverse_temperature=old.inverse_temperature)
                for new, old in zip(experts, pool.linear, strict=True)
            ),
            neighbours=rows.neighbours,
        )
        for experts in fit_linear(rows)[:FOLDS]
    ]


def _right(
    images: ItemBlock, evaluated: ExpertPool, pools: list[ExpertPool], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each product's answer is right, as evaluated and by the pool of its fold, bool [N].
    No product is compared with its own photos."""
    starts, fold = product_starts(images.product_id), product_fold(images.product_id, seed)
    truth, after = images.class_index[starts], np.empty(len(starts), dtype=bool)
    before = evaluated.log_probs(images, "product").argmax(axis=1) == truth
    for number in np.unique(fold).tolist():
        rows, items = fold == number, fold[starts] == number
        answer = pools[number].log_probs(images.rows(rows), "product", strangers=False)
        after[items] = answer.argmax(axis=1) == truth[items]
    return before, after


if __name__ == "__main__":
    main()
