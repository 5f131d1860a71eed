"""shelfsort in processes of its own, to be killed, interrupted or kept from writing; and what two
runs are compared by."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from catalog.store.reader import Store
from tests.pipeline.score_helpers import contents
from tests.pipeline.tiny import Tiny

ROOT = Path(__file__).parents[2]
MADE_BY = {
    "ingest": ("store.sqlite", "taxonomy.json", "ingest.json", "dumps"),
    "stage1": ("stage1",),
    "features": ("features.h5", "views/small/features.h5"),
    "stage2": ("stage2",),
    "evaluate": ("evaluation",),
    "score": ("out",),
}
"""What each step writes into the run."""


def arguments(tiny: Tiny, step: str, *more: str) -> list[str]:
    """Of one step of the tiny run; `score` scores its test dump, in parts if that has become large,
    into RUN/out."""
    own = {
        "ingest": tiny.ingest_options,
        "report": [str(tiny.folder)],
        "score": [
            str(tiny.data / "test.bson"),
            "--out",
            str(tiny.folder / "out"),
            "--set",
            "score.batch_size=8",
        ],
    }
    run = [] if step == "report" else ["--run", str(tiny.folder)]
    return [step, *own.get(step, []), *run, *more]


def command(tiny: Tiny, step: str, *more: str) -> list[str]:
    """The command of that step."""
    return [sys.executable, "-m", "pipeline", *arguments(tiny, step, *more)]


def start(arguments: list[str], **options: Any) -> subprocess.Popen:
    """As a group of its own, so that a signal can reach its workers too, as a terminal's does."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(arguments, env=environment, start_new_session=True, **(pipes | options))


def run(arguments: list[str], **options: Any) -> subprocess.CompletedProcess:
    """To its end."""
    with start(arguments, **options) as process:
        out, error = process.communicate(timeout=500)
    return subprocess.CompletedProcess(arguments, process.returncode, out, error)


def outcome(folder: Path, step: str) -> dict[str, Any]:
    """What a step gave, without clocks: two that are equal gave the same."""
    found: dict[str, Any] = {}
    if step == "ingest":
        found["store"] = Store(folder / "store.sqlite").fingerprint
    if step == "stage1":
        network = torch.load(folder / "stage1" / "best.pt", weights_only=True)["network"]
        found |= {name: tensor.numpy().tobytes() for name, tensor in network.items()}
    if step == "features":
        for name in MADE_BY["features"]:
            with h5py.File(folder / name) as file:
                found |= {
                    f"{name} {key}": np.array(file[key]).tobytes()
                    for key in ("features", "status", "image_id", "slices")
                }
    if step == "stage2":
        manifest = json.loads((folder / "stage2" / "manifest.json").read_text())
        found |= manifest["files"] | {
            key: json.dumps(manifest[key]) for key in ("categories", "default", "shift")
        }
    if step == "evaluate":
        tables = ("items.parquet", "per_category.parquet", "confusion.parquet")
        found |= {name: (folder / "evaluation" / name).read_bytes() for name in tables}
    if step == "score":
        found |= contents(folder / "out")
    return found


def leftovers(folder: Path) -> list[Path]:
    """Temporary files."""
    return [path for path in folder.rglob(".*") if path.name.endswith(".tmp")]
