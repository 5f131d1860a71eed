"""The whole product on synthetic data, from a network with ImageNet weights: every step, then a
second dump scored."""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from catalog.artifacts import read_json, require_own, write_json
from catalog.errors import ArtifactError
from catalog.lock import run_lock
from catalog.synthetic.dump import (
    SyntheticSpec,
    write_categories,
    write_dump,
    write_labels,
    write_landmarks_of,
)
from pipeline import steps
from pipeline.config import RunConfig, load_config
from pipeline.run_folder import RunFolder
from pipeline.shipped import CONFIGS

_TEST_SEED = 1_000_003
_FILES = ("train.bson", "test.bson", "category_names.csv", "test_labels.csv", "landmarks.csv")


def write_synthetic(out: Path, train: SyntheticSpec) -> None:
    """Writes train.bson, category_names.csv, landmarks.csv (of the photos in train.bson), and
    test.bson (a quarter as large, unlabelled) with test_labels.csv, unless they exist with these
    settings. Raises ShelfsortError if one exists that this function did not write."""
    test = replace(
        train,
        products=max(1, train.products // 4),
        seed=train.seed + _TEST_SEED,
        first_product_id=1 + train.products,
    )
    mark, settings = out / "synthetic.json", asdict(train)
    require_own(out, [mark.name], _FILES)
    try:
        made = read_json(mark, "synthetic")
    except ArtifactError:  # none yet, or damaged
        made = None
    if made != settings:
        for name in _FILES:
            (out / name).unlink(missing_ok=True)
        write_json(mark, settings)  # first: what a killed command leaves is its own
    write_categories(out / "category_names.csv", train)
    for name, spec, labelled in (("train.bson", train, True), ("test.bson", test, False)):
        if not (out / name).exists():
            write_dump(out / name, spec, labelled=labelled)
    write_labels(out / "test_labels.csv", test)
    write_landmarks_of(out / "landmarks.csv", train)


def run_demo(folder: Path, overrides: Sequence[str]) -> None:
    """Runs every step in `folder`; a second call skips what is current."""
    started = time.perf_counter()
    with run_lock(folder):
        _run(RunFolder(folder), load_config(CONFIGS / "demo.yaml", overrides))
    print(f"demo: {time.perf_counter() - started:.0f} s in all")


def _run(run: RunFolder, config: RunConfig) -> None:
    data, out = run.folder / "data", run.folder / "predictions"
    seed = config.stage1.seed
    spec = SyntheticSpec(categories=24, products=3000, side=48, seed=seed, columns=True)
    write_synthetic(data, spec)
    steps.ingest(
        run, config, [str(data / "train.bson")], data / "category_names.csv", rebuild=False
    )
    steps.stage1(run, config, rebuild=False)
    steps.features(run, config, rebuild=False)
    steps.stage2(run, config, rebuild=False)
    steps.score(run, config, [str(data / "test.bson")], out, data / "test_labels.csv")
    steps.evaluate(run, config, rebuild=False)
    run.save_config(config)
    steps.report(run, [])
    print(f"predictions: {out}", file=sys.stdout)
