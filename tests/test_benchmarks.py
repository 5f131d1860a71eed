"""The benchmarks: that they run, and say what they measure, as text and as JSON."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.agreement import require_evaluated_fit
from benchmarks.record import FIELDS, own_command
from benchmarks.scoring import summary
from catalog.errors import ShelfsortError
from pipeline.installation import revision
from pipeline.run_folder import RunFolder

SAYS = {
    "networks": ["4 categories", "| vanilla | vanilla |", "images of validation"],
    "loader": [
        "180 px photos to 180 px, ours / ImageFolder",
        "ours / decoder alone",
        "180 px photos to 180 px, ours / torchvision.io",
        "64 px photos to 64 px",
        "180 px photos to 90 px, scaled by the decoder / as a whole",
        "blocks of 64",
    ],
    "trainer": ["trainer / bare loop", "frozen forward / cached", "top-1 on val_a"],
    "heap": ["training: kept / default", "scoring: kept / default", "GiB kept"],
    "runtimes": ["traced, 16", "torch, 64", "end to end by PyTorch"],
    "scoring": ["one stream", "a stream a core", "of bare"],
    "agreement": [
        "score against evaluate: ",
        "exported reader against evaluate: ",
        "score in bf16 against evaluate: ",
    ],
    "export": ["of photos are the same", "40 photos: the same top-1"],
    "similar": ["loading", " 1 photos at once", "recall@10: 1.0000"],
    "breakdown": ["torch: ", " images/s and core: network ", "reading ", "all else "],
    "killed": ["one of two workers killed every 2 s", "the files are the same"],
    "gpu": [
        "training: from the store",
        "extraction: from the store",
        "published",
        "end to end: ",
        "the processor in fp32 instead: of ",
    ],
    "load": ["ingest: ", "extract: ", "figures: ", "report: ", "within 6 GiB"],
    "ocr": ["without_words: ", "Turkish", "over adjusted", "products: Estimate"],
    "soak": ["products, 1.0% bad: memory"],
}


SLOW = ("agreement", "killed", "load", "ocr", "runtimes")
IN_ROUNDS = ("loader", "heap", "runtimes", "scoring", "gpu")
"""Those whose figures are medians over as many rounds as the command line asks for."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in SAYS]
)
def test_it_runs_in_small(name: str, tmp_path: Path) -> None:
    if name == "ocr":
        pytest.importorskip("rapidocr", reason="needs the extra `ocr`")
    path = tmp_path / "figures" / f"{name}.json"
    result = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--smoke", "--json", str(path)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        timeout=250,
    )
    assert result.returncode == 0, result.stderr
    for text in SAYS[name]:
        assert text in result.stdout
    found = json.loads(path.read_text())
    assert tuple(found) == FIELDS
    assert found["command"] == f"OMP_NUM_THREADS=1 python -m benchmarks.{name} --smoke"
    assert found["revision"] == revision()
    assert (
        found["processor"]["threads"] == 1
        and found["processor"]["cores"] >= 1
        and found["processor"]["name"]
    )
    assert found["rounds"] >= 1 and found["figures"]
    assert str(tmp_path) not in path.read_text()
    assert all(
        len(figure["rounds"]) == found["rounds"]
        for figure in medians(found["figures"])
        if name in IN_ROUNDS
    )


def test_scoring_says_what_a_million_images_cost() -> None:
    figures = {"images_per_second": {"end to end": {"median": 100.0}}}
    assert summary(figures, 0.36) == "end to end: 100.0 images/s, $1.00 a million images"
    assert summary(figures, None) == "end to end: 100.0 images/s"


def medians(figures: object) -> list[dict]:
    """Every figure in there that is a median over rounds."""
    if isinstance(figures, dict):
        own = [figures] if set(figures) == {"median", "rounds"} else []
        return own + [figure for inner in figures.values() for figure in medians(inner)]
    return []


def test_a_command_leaves_out_json_and_the_folders_of_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = [
        "--of",
        "/a/run",
        "b.bson",
        "--json",
        "/c.json",
        "--folder=/d/e",
        "--json=/f",
        "g h",
    ]
    monkeypatch.setattr(sys, "argv", ["x.py", *arguments])
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert own_command().endswith(" --of run b.bson --folder=e 'g h'")


def test_a_last_fit_is_not_compared_with_what_was_evaluated(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.stage2.mkdir()
    run.stage2_manifest.touch()
    require_evaluated_fit(run)
    last = run.stage2 / "final"
    last.mkdir()
    (last / "manifest.json").touch()
    with pytest.raises(ShelfsortError, match=re.escape(f"rm -r {last}")):
        require_evaluated_fit(run)
