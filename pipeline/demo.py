"""The whole product on synthetic data, from a network with ImageNet weights: every step, then a second dump scored."""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from catalog.artifacts import read_json, run_lock, write_json
from catalog.synthetic import SyntheticSpec, write_categories, write_dump, write_labels, write_landmarks_of
from pipeline import steps
from pipeline.config import RunConfig, load_config
from pipeline.runs import Run

CONFIGS = Path(__file__).parent.parent / "configs"
_TEST_SEED = 1_000_003


def write_synthetic(
    out: Path, *, products: int, categories: int, side: int, seed: int, titles: bool = False
) -> None:  # fmt: skip
    """Writes train.bson, category_names.csv, landmarks.csv (of the photos in train.bson), and test.bson (a quarter as large,
    unlabelled) with test_labels.csv, unless they are there as asked."""
    train = SyntheticSpec(categories=categories, products=products, side=side, seed=seed, titles=titles)
    test = replace(train, products=max(1, products // 4), seed=seed + _TEST_SEED, first_product_id=1 + products)
    note, asked = out / "synthetic.json", asdict(train)
    if not (note.exists() and read_json(note, f"rm {note}") == asked):
        for name in ("synthetic.json", "train.bson", "test.bson"):
            (out / name).unlink(missing_ok=True)
    write_categories(out / "category_names.csv", train)
    for name, spec, labelled in (("train.bson", train, True), ("test.bson", test, False)):
        if not (out / name).exists():
            write_dump(out / name, spec, labelled=labelled)
    write_labels(out / "test_labels.csv", test)
    write_landmarks_of(out / "landmarks.csv", train)
    write_json(note, asked)


def demo(folder: Path, overrides: Sequence[str]) -> None:
    """Runs everything into `folder`; a second call repeats nothing."""
    started = time.perf_counter()
    with run_lock(folder):
        _run(Run(folder), load_config(CONFIGS / "demo.yaml", overrides))
    print(f"demo: {time.perf_counter() - started:.0f} s in all")


def _run(run: Run, config: RunConfig) -> None:
    data, out = run.folder / "data", run.folder / "predictions"
    write_synthetic(data, products=3000, categories=24, side=48, seed=config.stage1.seed)
    steps.ingest(run, config, [str(data / "train.bson")], data / "category_names.csv", rebuild=False)
    steps.stage1(run, config, rebuild=False)
    steps.features(run, config, rebuild=False)
    steps.stage2(run, config, rebuild=False)
    steps.score(run, config, [str(data / "test.bson")], out, data / "test_labels.csv")
    steps.evaluate(run, config, rebuild=False)
    run.save_config(config)
    steps.report(run, [])
    print(f"predictions: {out}", file=sys.stdout)
