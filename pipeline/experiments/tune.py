"""`shelfsort tune`: searches over settings, evaluated on held-out data and never on test.

On disk, in RUN/tune/: stage1.csv and stage1.svg, with a folder per trial in stage1/; stage2.csv.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from catalog.artifacts import write_text
from catalog.parallel import cores
from pipeline.config import RunConfig
from pipeline.experiments.tune_figure import draw_tuning
from pipeline.run_folder import RunFolder, Say
from pipeline.second_stage import class_mixes, current_features
from pipeline.training import training_origin

STAGE1_COLUMNS = (
    "what",
    "lr",
    "trainable_blocks",
    "validation_share",
    "epochs",
    "epoch",
    "train_images",
    "val_images",
    "val_top1",
    "low",
    "high",
    "val_loss",
    "seconds",
)
STAGE2_COLUMNS = ("max_depth", "n_estimators", "learning_rate", "items", "before", "after")
_LISTED = 5
"""The best trials of stage 2 that are printed."""


def tune_stage1(
    run: RunFolder, config: RunConfig, epochs: int, photos: int | None, say: Say = print
) -> None:
    """Short trainings over learning rates, trainable blocks and validation shares, evaluated on
    val_a."""
    from pipeline.networks import keep_training_memory
    from stage1_cnn.training.tune import Search, steepest

    folder = run.folder / "tune" / "stage1"
    origin = training_origin(run, config.stage1)
    search = Search(run.store, config.stage1, folder, origin, epochs=epochs, photos=photos)
    keep_training_memory(config.stage1)
    range_rows = search.range_test()
    advised = steepest(range_rows)
    rows: list[dict[str, Any]] = [
        asdict(outcome.trial) | asdict(outcome) | {"epochs": epochs} for outcome in search.run()
    ]
    path = folder.with_name("stage1.csv")
    _write_stage1(path, rows)
    draw_tuning(rows, range_rows, advised, path.with_suffix(".svg"))
    for row in rows:
        interval = f"[{row['low']:.4f}, {row['high']:.4f}]"
        say(f"  {row['what']} {row[row['what']]}: {row['val_top1']:.4f} {interval}")
    best = max(rows, key=lambda row: row["val_top1"])
    measured = f"top-1 on {best['val_images']} images of val_a"
    say(f"tune: {len(rows)} runs of {epochs} epochs, {measured} -> {path}, stage1.svg")
    blocks = f"--set stage1.trainable_blocks={best['trainable_blocks']}"
    say(f"  best: --set stage1.lr={best['lr']:g} {blocks}")
    if advised:
        say(f"  range test: the loss falls fastest at a learning rate of {advised:.2g}")


def _write_stage1(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    lines = [",".join(STAGE1_COLUMNS)]
    for row in rows:
        values = [row[name] for name in STAGE1_COLUMNS]
        lines.append(",".join("" if value is None else str(value) for value in values))
    write_text(path, "\n".join(lines) + "\n")


def tune_stage2(run: RunFolder, config: RunConfig, say: Say = print) -> None:
    """The published grid over the reclassifiers, cross-validated on reserve and val_a."""
    from stage2_xgb.inputs import prepare_stage2
    from stage2_xgb.tune import search

    stores = list(current_features(run, config, config.view_names).values())
    jobs = config.jobs or cores()
    inputs = prepare_stage2(stores, class_mixes(run), run.store.taxonomy, config.stage2, jobs)
    trials = search(inputs.sets, inputs.picker(config.stage2), config.stage2, jobs)
    lines = [",".join([*STAGE2_COLUMNS, "gain"])]
    for trial in trials:
        values = [str(getattr(trial, name)) for name in STAGE2_COLUMNS]
        lines.append(",".join([*values, f"{trial.gain:.5f}"]))
    path = run.folder / "tune" / "stage2.csv"
    write_text(path, "\n".join(lines) + "\n")
    say("\n".join(lines[: 1 + _LISTED]))
    say(f"tune: the {_LISTED} best of {len(trials)}; all of them in {path}")
