"""Finished runs of one experiment, with different seeds, as one JSON file for docs/results.md.

In: of each run config.yaml, ingest.json, stage1/summary.json, features.h5, stage2/summary.json and
evaluation/; with --scored also predictions of a labelled dump. On disk: the file --json, in the
format of benchmarks.record. Printed: the means over the seeds, beside those of an earlier file.
Run: python -m benchmarks.run_results RUN [RUN ...] --config FILE --json docs/results/NAME.json
"""

import argparse
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import yaml

from benchmarks import record
from catalog.artifacts import read_json
from catalog.labels import read_labels
from pipeline.config import RunConfig, load_config
from pipeline.evaluation.measures import ece_by_chance, reliability
from pipeline.run_folder import RunFolder
from pipeline.scoring.accuracy import compare_with_labels
from stage2_xgb.heldout import UNITS

SUPPORTS = ((1, 4), (5, 9), (10, 29), (30, None))
"""Least and most test images of the categories that are counted together."""
SYSTEMS = ("stage1", "shifted", "two_stage")
MOVES = (
    r"test\.\w+\.(natural|balanced)\.(stage1|shifted|two_stage)\.top1\.value",
    r"test\.\w+\.(natural|balanced)\.changes\."
    r"(two_stage_over_shifted|published_over_stage1)\.top1\.value",
    r"scored\.(two_stage|change)\.value",
    r"stage2\.mendable_share",
    r"stage2\.units\..*(gain|own_share)(\.value)?",
)
"""The figures whose means over the seeds are printed."""
_NOT_FIGURES = ("made_from", "settings", "files", "fingerprint", "evaluated", "seconds")


def main() -> None:
    """Writes the file and prints what moved."""
    options = _options()
    runs = [RunFolder(path) for path in options.runs]
    changed = same_settings(runs, options.config)
    old = options.before or options.json
    before = json.loads(old.read_text())["figures"]["seeds"] if old.exists() else []
    seeds = [of_run(run) for run in runs]
    if options.scored:
        for seed, run in zip(seeds, runs, strict=True):
            seed["scored"] = accuracy_of(
                run, options.scored, read_labels(run.folder / options.labels)
            )
    figures = {"settings": changed, "split": "test", "seeds": seeds}
    figures["calibration"] = {unit: calibration(runs, unit) for unit in UNITS}
    command = commands(options.json.stem, options.config, changed, runs[0], bool(options.scored))
    precision = runs[0].features.computed_with["precision"]
    record.save(options.json, figures, precision=precision, rounds=len(runs), command=command)
    print("\n".join(moves(before, seeds)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument(
        "--config",
        type=Path,
        help="what the runs were configured with; the command has what differs from it",
    )
    parser.add_argument(
        "--scored",
        metavar="FOLDER",
        help="predictions of a labelled dump, seen from each run's folder",
    )
    parser.add_argument(
        "--labels",
        type=Path,
        help="CSV with the true categories of that dump, seen from there or absolute",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", required=True)
    parser.add_argument(
        "--before",
        type=Path,
        metavar="FILE",
        help="what to compare with; else what --json replaces",
    )
    options = parser.parse_args()
    if bool(options.scored) != bool(options.labels):
        parser.error("--scored and --labels go together")
    return options


def same_settings(runs: list[RunFolder], base: Path | None) -> dict[str, Any]:
    """What the runs' configurations set otherwise than the file `base`, seeds aside. Ends the
    program if the runs differ in that."""
    default = _flat(load_config(base))
    settings = []
    for run in runs:
        config = _flat(load_config(run.folder / "config.yaml"))
        settings.append(
            {
                key: value
                for key, value in config.items()
                if default.get(key) != value and not _may_differ(key)
            }
        )
        if settings[-1] != settings[0]:
            keys = [
                key
                for key in settings[0] | settings[-1]
                if settings[0].get(key) != settings[-1].get(key)
            ]
            expected = f"expected the settings of {runs[0].folder}"
            raise SystemExit(f"{run.folder}: {expected}, found others: {', '.join(keys)}")
    return settings[0]


def _may_differ(key: str) -> bool:
    return key.endswith(".seed") or key == "jobs"


def _flat(config: RunConfig) -> dict[str, Any]:
    """Each key with the sections before it, joined by dots; all views are one value, which replaces
    those of a configuration. Files lose their folder."""
    return dict(_keys(config.model_dump(mode="json"), ""))


def _keys(value: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict) and key != "views":
            yield from _keys(inner, f"{prefix}{key}.")
        else:
            yield prefix + key, _without_folder(inner)


def _without_folder(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_folder(inner) for key, inner in value.items()}
    return Path(value).name if isinstance(value, str) and "/" in value else value


def commands(
    name: str, base: Path | None, changed: dict[str, Any], run: RunFolder, scored: bool
) -> str:
    """What makes such a run, a command a line; N is the seed."""
    folder = f"runs/{name}"
    seeds = [f"--set {key}=N" for key in _flat(load_config(base)) if key.endswith(".seed")]
    made_from = read_json(run.evaluation / "metrics.json", "evaluate")["made_from"]
    evaluate = f"shelfsort evaluate --run {folder}{' --rivals' if made_from.get('rivals') else ''}"
    if base and base.stem == "demo":
        return "\n".join([" ".join([f"shelfsort demo --run {folder}", *seeds]), evaluate])
    settings = [
        f"--set {shlex.quote(f'{key}={json.dumps(value)}'.replace(chr(34), ''))}"
        for key, value in changed.items()
    ]
    config = [f"--config {base}"] if base else []
    ingest = [
        f"shelfsort ingest --run {folder}",
        *config,
        "--dump train.bson --categories category_names.csv",
    ]
    lines = [" ".join([*ingest, *settings, *seeds])]
    lines += [f"shelfsort {step} --run {folder}" for step in ("stage1", "features", "stage2")]
    lines.append(evaluate)
    if scored:
        lines.append(
            f"shelfsort score test.bson --run {folder} --out predictions --labels test_labels.csv"
        )
    return "\n".join(lines)


def of_run(run: RunFolder) -> dict[str, Any]:
    """The figures of one run."""
    own = yaml.safe_load((run.folder / "config.yaml").read_text())
    ingest, stage1, stage2, metrics = (
        read_json(path, step)
        for path, step in (
            (run.ingest_summary, "ingest"),
            (run.stage1 / "summary.json", "stage1"),
            (run.stage2 / "summary.json", "stage2"),
            (run.evaluation / "metrics.json", "evaluate"),
        )
    )
    return {
        "seed": own["catalog"]["seed"],
        "ingest": {key: ingest[key] for key in ("products", "images", "categories_in_use", "kept")},
        "stage1": {key: stage1[key] for key in ("best", "images", "computed_with", "seconds")}
        | {"revision": own["revision"]},
        "features": run.features.computed_with,
        "stage2": stage2,
        "test": {key: value for key, value in metrics.items() if key not in _NOT_FIGURES},
        "by_support": by_support(run),
    }


def by_support(run: RunFolder) -> list[dict[str, Any]]:
    """Test images and those that each system has right, of categories with so many test images."""
    table = pandas.read_parquet(run.evaluation / "per_category.parquet")
    table = table[(table["unit"] == "image") & (table["support"] > 0)]
    rows = []
    for least, most in SUPPORTS:
        some = table[(table["support"] >= least) & (table["support"] <= (most or np.inf))]
        right = {s: int(np.rint((some[f"{s}_recall"] * some["support"]).sum())) for s in SYSTEMS}
        rows.append({"least": least, "most": most, "n": int(some["support"].sum()), **right})
    return rows


def calibration(runs: Sequence[RunFolder], unit: str) -> dict[str, Any]:
    """Calibration error of both stages over the test items of all runs together, natural mix, and
    what exact confidences would have by chance: a single test split is often too small to tell."""
    items = pandas.concat([pandas.read_parquet(run.table_path("items")) for run in runs])
    items = items[items["unit"] == unit]
    confidence = items["two_stage_confidence"].to_numpy()
    right = (items["two_stage_class"] == items["class_index"]).to_numpy()
    weight = items["weight"].to_numpy()
    return {
        "n": len(items),
        "ece": reliability(confidence, right, weight)["ece"],
        "by_chance": ece_by_chance(confidence, weight),
    }


def accuracy_of(run: RunFolder, scored: str, labels: dict[int | str, int]) -> dict[str, Any]:
    """Top-1 of a scored dump's labelled products, as `shelfsort score --labels` prints it."""
    comparison = compare_with_labels(run.folder / scored, labels, run.store.taxonomy)
    names = ("stage1", "shifted", "two_stage", "change")
    figures = {name: getattr(comparison, name).to_json() for name in names}
    return figures | {"without_photo": comparison.without_photo}


def moves(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> Iterator[str]:
    """A table of the means over the seeds, before and after."""
    old, new = means(before), means(after)
    yield "| mean over the seeds | before | after | change |"
    yield "|---|---|---|---|"
    for name in new | old:
        values = [side[name] for side in (old, new) if name in side]
        change = f"{values[-1] - values[0]:+.4f}" if len(values) == 2 else ""
        columns = [f"{side[name]:.4f}" if name in side else "" for side in (old, new)]
        yield " | ".join([f"| {name}", *columns, f"{change} |"])


def means(seeds: list[dict[str, Any]]) -> dict[str, float]:
    """The mean over the seeds of each of the MOVES, by its keys."""
    values_of: dict[str, list[float]] = {}
    for seed in seeds:
        for name, value in _keys(seed, ""):
            if isinstance(value, int | float) and any(
                re.fullmatch(pattern, name) for pattern in MOVES
            ):
                values_of.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in values_of.items()}


if __name__ == "__main__":
    main()
