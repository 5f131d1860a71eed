"""Trainings of stage 1: the network of a run, of a further view, or of a comparison.

In: a store and section `stage1` of a configuration. On disk: stage1/ in the folder of the run, the
view or the comparison (docs/formats.md). `stage1_cnn.training` trains; this module decides whether
anything has to be trained, and what a rebuild removes.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.artifacts import sha256_file
from catalog.errors import ConfigError
from pipeline.run_folder import RunFolder, Say
from stage1_cnn.config import Stage1Config

if TYPE_CHECKING:
    from stage1_cnn.processes import Processes
    from stage1_cnn.training.trainer import Summary

_MARKS_OF_PROGRESS = ("last.pt", "before.pt", "summary.json")
"""Removed in this order, before the folder: a restart tells from the last one that a rebuild has
begun."""


def train(
    run: RunFolder,
    config: Stage1Config,
    rebuild: bool,
    say: Say,
    name: str,
    processes: "Processes | None" = None,
    *,
    any_labels: bool = False,
) -> None:
    """Trains the network of `run`, or resumes its training; does nothing if it is current. With
    `any_labels` a network that learnt from labels before their correction is current too.

    `name` begins each message: `stage1`, `view wide`, `resnet50, seed 3`. Raises ArtifactError if
    the network there was made from something else, ConfigError if a file to start from is missing
    or is about to be removed.
    """
    made_from = training_origin(run, config)
    if not rebuild and run.current(run.stage1_summary, made_from, "stage1", any_labels=any_labels):
        say(f"{name}: current ({run.checkpoint})")
        return
    from pipeline.networks import keep_training_memory
    from stage1_cnn.processes import SINGLE_PROCESS
    from stage1_cnn.training.setup import TrainingJob, check_training
    from stage1_cnn.training.trainer import train_stage1

    processes = processes or SINGLE_PROCESS
    run.store.verify()
    if rebuild:
        check_training(config, len(run.store.taxonomy), processes)
        _require_outside(run.stage1, config)
        if processes.is_main:
            _remove_training(run.stage1)
        processes.wait()
    keep_training_memory(config, processes)
    summary = train_stage1(TrainingJob(run.store, config, run.stage1, made_from, processes))
    say(f"{name}: {run.checkpoint} in {summary.seconds:.0f} s; {_best_epoch(summary)}")


def training_origin(run: RunFolder, config: Stage1Config) -> dict[str, Any]:
    """What a training is made from: the store, the settings that shape it, and the content of the
    files that it starts from, which can change under the same names."""
    files = {key: sha256_file(path) for key, path in _starting_files(config).items()}
    return {"store": run.store.fingerprint, "config": config.shaping() | files}


def _starting_files(config: Stage1Config) -> dict[str, Path]:
    """Configuration key -> file that a training starts from. Raises ConfigError if one is
    missing."""
    files = {}
    if config.weights not in ("imagenet", "none"):
        files["weights"] = Path(config.weights)
    if config.landmarks:
        files["landmarks"] = config.landmarks
    for key, path in files.items():
        if not path.is_file():
            expected = "imagenet, none, or a file" if key == "weights" else "a file, or null"
            raise ConfigError(f"stage1.{key}: no such file: {path}; expected {expected}")
    return files


def _require_outside(folder: Path, config: Stage1Config) -> None:
    """Raises ConfigError if a training starts from a file in `folder`, which a rebuild removes."""
    for key, path in _starting_files(config).items():
        if path.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(
                f"stage1.{key}: expected a file outside of {folder}, which --rebuild removes, "
                f"found {path}; copy it elsewhere first"
            )


def _remove_training(folder: Path) -> None:
    for name in _MARKS_OF_PROGRESS:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _best_epoch(summary: "Summary") -> str:
    best, images = summary.best, summary.images["val_a"]
    accuracy = "val_a has no images"
    if images:
        top1, top5 = best["val_top1"], best["val_top5"]
        accuracy = f"val_a top-1 {top1:.4f}, top-5 {top5:.4f} ({images} images)"
    return f"best {best['phase']} epoch {best['epoch']}: {accuracy}"
