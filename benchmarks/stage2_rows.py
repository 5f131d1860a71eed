"""Where stage 2's gain comes from, row by row, on the test split of a finished run: each part
alone, and what it adds. The run has to be evaluated.

Nothing is chosen here: every row has the run's configuration but for what its name says. Run:
python -m benchmarks.stage2_rows runs/NAME
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from benchmarks import record
from features.store import FeatureStore
from pipeline.config import load_config
from pipeline.evaluation.measures import top1_in_both_mixes
from pipeline.run_folder import RunFolder
from pipeline.second_stage import class_mixes
from stage2_xgb.bundle import Bundle
from stage2_xgb.config import Stage2Config
from stage2_xgb.dataset import Views
from stage2_xgb.experts import LinearExpert, OneHot, columns_of
from stage2_xgb.fit import fit_stage2
from stage2_xgb.fit_experts import COLUMNS, DISCRIMINANTS, JOINT, LOGISTIC
from stage2_xgb.gate import OWN, POOL, STAGE1
from stage2_xgb.inputs import ClassMixes
from stage2_xgb.items import ItemBlock, mean_by_product, of_unit
from stage2_xgb.published import PUBLISHED
from stage2_xgb.refine import answer_with_all, refine

Row = tuple[str, np.ndarray]


def main() -> None:
    """Prints a table of both units and both mixes."""
    parser = record.parser(__doc__, smoke=None)
    parser.add_argument("run", type=Path)
    options = parser.parse_args()
    run = RunFolder(options.run)
    names = list(Bundle.open(run.stage2).made_from["views"])
    whole = load_config(run.folder / "config.yaml")
    config = whole.stage2.model_copy(update={"published": False})
    stores = [run.view(name).features for name in names]
    classes, least = len(run.store.taxonomy), whole.evaluate.min_support
    items = pandas.read_parquet(run.evaluation / "items.parquet")
    figures: dict[str, Any] = {"split": "test"}
    for unit in ("image", "product"):
        figures[unit] = []
        print(f"\n| {unit} | natural | over adjusted | balanced | over adjusted |")
        print("|---|---|---|---|---|")
        frame, shifted = items[items["unit"] == unit], None
        truth = frame["class_index"].to_numpy()
        products = frame["product_id"].to_numpy()
        if not np.array_equal(products, products_of_test(stores, unit)):
            raise SystemExit(
                f"{run.evaluation}: of other items; shelfsort evaluate --run {options.run}"
            )
        for name, predicted in rows(stores, class_mixes(run), run, config, unit):
            right = predicted == truth
            row = top1_in_both_mixes(frame, classes, least, right, shifted)
            shifted = right if name.startswith("adjusted") else shifted
            cells = [cell for mix in row.values() for cell in _cells(mix)]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
            figures[unit].append({"name": name, "n": len(right)} | row)
    record.save(options.json, figures, precision=stores[0].computed_with["precision"])


def products_of_test(stores: Sequence[FeatureStore], unit: str) -> np.ndarray:
    """Product of each test item, int64 [N]."""
    blocks = Views(stores).blocks("test", fit_only=False)
    return np.concatenate([of_unit(block, unit).product_id for block in blocks])


def rows(
    stores: Sequence[FeatureStore],
    mixes: ClassMixes,
    run: RunFolder,
    config: Stage2Config,
    unit: str,
) -> Iterator[Row]:
    """Name of each row, and the class int [N] that it predicts for each test item, in the order of
    evaluation/items.parquet."""
    images = list(Views(stores).blocks("test", fit_only=False))
    items = [of_unit(block, unit) for block in images]

    def row(name: str, predicted: Sequence[np.ndarray]) -> Row:
        return name, np.concatenate(predicted)

    yield row("stage 1", [block.log_probs.argmax(axis=1) for block in items])
    alone = config.model_copy(update={"pool": False})
    vectors = [store for store in stores if not columns_of(store.made_from)]
    variants = [
        ("own reclassifiers alone", stores[:1], alone),
        ("published second stage", stores[:1], PUBLISHED),
        ("pool", stores[:1], config),
    ]
    if len(vectors) > 1:
        variants.append(("pool, all views", vectors, config))
    if len(stores) > len(vectors):
        variants.append(("pool, columns too", stores, config))
    for name, views, changed in variants:
        with tempfile.TemporaryDirectory() as folder:
            fit_stage2(views, mixes, run.store.taxonomy, changed, Path(folder), {}, jobs=2)
            bundle = Bundle.open(Path(folder))
            blocks = [_seen(block, len(views), bundle) for block in images]
            for label, predicted in _of_bundle(bundle, blocks, unit, name):
                yield row(label, predicted)


def _seen(images: ItemBlock, views: int, bundle: Bundle) -> ItemBlock:
    """What a second stage of some views sees of images."""
    codes = images.codes if bundle.columns else images.codes[:, :0]
    return replace(images, features=images.features[:views], codes=codes)


def _of_bundle(
    bundle: Bundle, images: Sequence[ItemBlock], unit: str, name: str
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Rows of one second stage, and the classes [N] that each predicts for each block."""
    answers = [answer_with_all(bundle, block, unit)[1] for block in images]
    if name.startswith("published"):
        yield name, [_best(x[OWN]) for x in answers]
        return
    if bundle.pool is None:
        yield "adjusted to the target mix", [_best(x[STAGE1]) for x in answers]
    else:
        opinions = [bundle.pool.opinions(block) for block in images]
        names = map(_expert_name, bundle.pool.linear)
        for number, expert in enumerate(("stage1", *names, "neighbours")):
            yield (
                f"{name}: {expert} alone",
                [
                    _best(_of_unit(x[number], block, unit))
                    for x, block in zip(opinions, images, strict=True)
                ],
            )
        yield name, [_best(x[POOL]) for x in answers]
        name = f"{name}, own reclassifiers"
    yield f"{name}, everywhere", [_best(x[OWN]) for x in answers]
    yield f"{name}, gated", [_best(refine(bundle, block, unit).two_stage) for block in images]


def _expert_name(expert: LinearExpert) -> str:
    if isinstance(expert.inputs, OneHot):
        return JOINT if expert.inputs.views else COLUMNS
    return DISCRIMINANTS if expert.inputs.root else LOGISTIC


def _best(log_probs: np.ndarray) -> np.ndarray:
    return log_probs.argmax(axis=1)


def _of_unit(opinion: np.ndarray, images: ItemBlock, unit: str) -> np.ndarray:
    return mean_by_product(opinion, images.product_id) if unit == "product" else opinion


def _cells(figures: dict[str, dict[str, float]]) -> tuple[str, str]:
    change = figures.get("change")
    value, low, high = (100 * change[x] for x in ("value", "low", "high")) if change else (0, 0, 0)
    top1 = f"{figures['top1']['value']:.4f}"
    return top1, f"{value:+.2f} [{low:+.2f}, {high:+.2f}]" if change else ""


if __name__ == "__main__":
    main()
