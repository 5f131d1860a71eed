"""stage1 under torchrun, and its search, from the command line."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torchvision

from catalog.artifacts import read_json, sha256_file
from pipeline.cli import main
from stage1_cnn.training import tune
from tests.conftest import PRECISION, SmallDump

SETTINGS = [
    "stage1.backbone=mobilenet_v3_small",
    "stage1.weights=none",
    "stage1.image_size=32",
    "stage1.epochs=2",
    "stage1.batch_size=16",
    f"stage1.precision={PRECISION}",
    "stage1.workers=0",
    "jobs=1",
]


@pytest.fixture
def run(small_dump: SmallDump, tmp_path: Path) -> Path:
    """A run that was ingested."""
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    assert (
        main(["ingest", "--run", str(tmp_path / "run"), "--dump", str(small_dump.path), *settings])
        == 0
    )
    return tmp_path / "run"


def test_tune_writes_table_and_figure(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name, values in (("RATES", (1e-3,)), ("BLOCKS", (1,)), ("SHARES", (0.3,)), ("STEPS", 8)):
        monkeypatch.setattr(tune, name, values)
    assert main(["tune", "stage1", "--run", str(run), "--epochs", "1", "--photos", "32"]) == 0
    text = capsys.readouterr().out
    assert "3 runs of 1 epochs" in text
    assert "--set stage1.lr=0.001" in text
    with open(run / "tune" / "stage1.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["what"] for row in rows] == ["lr", "trainable_blocks", "validation_share"]
    assert [row["validation_share"] for row in rows] == ["", "", "0.3"]
    assert (run / "tune" / "stage1.svg").read_text().count("val_a") == 3
    assert main(["tune", "stage1", "--run", str(run), "--epochs", "1", "--photos", "32"]) == 0
    assert capsys.readouterr().out == text, "nothing is trained again"


def test_tune_knows_a_file_of_weights_by_its_content(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, values in (("RATES", (1e-3,)), ("BLOCKS", (0,)), ("SHARES", (0.3,)), ("STEPS", 2)):
        monkeypatch.setattr(tune, name, values)
    weights = tmp_path / "weights.pth"
    torch.save(torchvision.models.mobilenet_v3_small().state_dict(), weights)
    command = ["tune", "stage1", "--run", str(run), "--epochs", "1", "--photos", "16"]
    assert (
        main([*command, "--set", f"stage1.weights={weights}", "--set", "stage1.head_epochs=1"]) == 0
    )
    for folder in ("range", "lr-0.001"):
        made_from = read_json(run / "tune" / "stage1" / folder / "made_from.json", "")
        assert made_from["config"]["weights"] == sha256_file(weights)


def test_torchruns_restart_goes_on_with_a_rebuild_that_had_begun(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for name, value in (
        ("RANK", 0),
        ("WORLD_SIZE", 1),
        ("LOCAL_RANK", 0),
        ("LOCAL_WORLD_SIZE", 1),
        ("MASTER_PORT", port),
    ):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    last, summary = run / "stage1" / "last.pt", run / "stage1" / "summary.json"

    def rebuild(restarts: int, *settings: str) -> int:
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restarts))
        return main(
            ["stage1", "--run", str(run), "--set", "stage1.epochs=1", *settings, "--rebuild"]
        )

    assert rebuild(0) == 0
    kept = last.stat().st_mtime_ns
    summary.unlink()  # as where a process dies in the training
    assert rebuild(1) == 0
    assert last.stat().st_mtime_ns == kept and summary.exists(), "it went on"
    changed = ["--set", "stage1.lr=0.002"]
    assert rebuild(0, *changed, "--set", "stage1.device=cuda:99") == 2
    assert summary.exists()
    assert rebuild(1, *changed) == 0
    assert read_json(summary, "")["made_from"]["config"]["lr"] == 0.002, "it began"


def torchrun(run: Path, *options: str) -> subprocess.Popen:
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "pipeline",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [*launch, "stage1", "--run-folder", str(run), *options],
        cwd=Path(__file__).parents[2],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_torchrun_stops_on_control_c_says_how_to_go_on_and_speaks_once(run: Path) -> None:
    with torchrun(run, "--set", "stage1.save_minutes=0", "--set", "stage1.epochs=12") as processes:
        end = time.monotonic() + 500
        while not (run / "stage1" / "last.pt").exists():
            assert time.monotonic() < end and processes.poll() is None, processes.communicate()
            time.sleep(0.01)
        processes.send_signal(signal.SIGINT)
        _, error = processes.communicate(timeout=300)
    assert (
        error.count(
            "stopped; go on with: torchrun --nproc-per-node=2 "
            "--no-python shelfsort stage1 --run-folder"
        )
        == 1
    ), error
    assert not (run / "stage1" / "summary.json").exists()
    with torchrun(run, "--set", "stage1.epochs=12") as processes:
        out, error = processes.communicate(timeout=500)
    assert processes.returncode == 0, error
    assert out.count("best finetune epoch") == 1
    with torchrun(run, "--set", "stage1.epochs=12") as processes:
        out, _ = processes.communicate(timeout=300)
    assert out.count("stage1: current") == 1
