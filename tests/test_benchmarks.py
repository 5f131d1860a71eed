"""The benchmarks: that they run, and say what they measure."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SAYS = {
    "networks": ["4 categories", "| vanilla | vanilla |", "images of validation"],
    "loader": ["180 px photos to 180 px, ours / ImageFolder", "ours / decoder alone", "64 px photos to 64 px", "blocks of 64"],
    "trainer": ["trainer / bare loop", "frozen forward / cached", "top-1 on val_a"],
    "heap": ["training: kept / default", "scoring: kept / default", "GiB kept"],
    "scoring": ["one stream", "a stream a core", "of bare"],
    "agreement": ["score against evaluate: ", "exported reader against evaluate: ", "score in bf16 against evaluate: "],
    "export": ["of photos are the same", "40 photos: the same top-1"],
    "similar": ["loading", " 1 photos at once", "recall@10: 1.0000"],
    "gpu": ["training: from the store", "extraction: from the store", "published"],
    "load": ["ingest: ", "extract: ", "bootstrap: ", "report: ", "within 6 GiB"],
    "soak": ["products, 1.0% bad: memory"],
}


SLOW = ("agreement", "load")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in SAYS])
def test_it_runs_in_small(name: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--smoke"], cwd=Path(__file__).parents[1], capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}, timeout=250,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    for text in SAYS[name]:
        assert text in result.stdout
