import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from catalog.errors import ConfigError
from catalog.store.reader import Store
from stage1_cnn import checkpoint
from stage1_cnn.config import Stage1Config
from stage1_cnn.device import choose_compute
from stage1_cnn.processes import SINGLE_PROCESS, Processes, process_group
from stage1_cnn.training.setup import TrainingJob, prepare_training
from tests.stage1_cnn.child import MADE_FROM, train

pytestmark = pytest.mark.timeout(
    1500
)  # they start processes of their own, which a busy machine takes long for
TOLERANCE = 1e-3
"""Of a loss, relative: two processes add the same numbers in another order."""


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def together(store: Path, folder: Path, config: Stage1Config, norm: str = "") -> subprocess.Popen:
    """Two processes under torchrun that train one network."""
    launch = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "tests.stage1_cnn.child",
    ]
    command = [sys.executable, *launch, str(store), str(folder), config.model_dump_json(), norm]
    return subprocess.Popen(
        command, cwd=Path(__file__).parents[2], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


@pytest.fixture
def config(config: Stage1Config) -> Stage1Config:
    """Without dropout, whose draws differ from process to process; in fp32, as bf16's rounding
    would hide a wrong gradient."""
    network = {"backbone": "regnet_y_400mf", "weights": "none", "precision": "fp32"}
    return config.model_copy(update={**network, "lr": 2e-4, "workers": 0})


def assert_same_curve(folder: Path, expected: Path) -> None:
    found, alone = lines(folder), lines(expected)
    assert len(found) == len(alone) > 0
    for one, other in zip(found, alone, strict=True):
        assert (one["phase"], one["epoch"]) == (other["phase"], other["epoch"])
        for key in ("train_loss", "val_loss"):
            assert one[key] == pytest.approx(other[key], rel=TOLERANCE), (
                one["phase"],
                one["epoch"],
                key,
            )


def test_two_processes_train_as_one(store_path: Path, config: Stage1Config, tmp_path: Path) -> None:
    """With group norm; the last batch of each epoch is whole, the ones in between in two parts."""
    config = config.model_copy(update={"accumulate": 2, "ema_decay": 0.9})
    train(store_path, tmp_path / "alone", config, "group")
    with together(store_path, tmp_path / "two", config, "group") as processes:
        assert processes.wait(500) == 0
    assert_same_curve(tmp_path / "two", tmp_path / "alone")
    names = {path.name for path in (tmp_path / "two").iterdir()}
    assert names == {"best.pt", "last.pt", "before.pt", "metrics.jsonl", "tensorboard"}


@pytest.mark.slow
def test_with_a_head_phase_and_frozen_batch_norm(
    store_path: Path, config: Stage1Config, tmp_path: Path
) -> None:
    train(store_path, tmp_path / "start", config.model_copy(update={"epochs": 1}), "")
    weights = str(tmp_path / "start" / "last.pt")
    config = config.model_copy(update={"weights": weights, "batch_norm": "frozen"})
    train(store_path, tmp_path / "alone", config, "")
    with together(store_path, tmp_path / "two", config) as processes:
        assert processes.wait(500) == 0
    assert_same_curve(tmp_path / "two", tmp_path / "alone")
    one, other = (
        checkpoint.load(tmp_path / name / "last.pt")["network"] for name in ("two", "alone")
    )
    for key, value in one.items():
        torch.testing.assert_close(
            value, other[key], rtol=0.05, atol=2e-3, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_they_go_on_from_the_last_checkpoint(
    number: int, store_path: Path, config: Stage1Config, tmp_path: Path
) -> None:
    """To the bit as two that nobody stopped."""
    config = config.model_copy(update={"save_minutes": 0, "epochs": 3})
    folder, whole = tmp_path / "stopped", tmp_path / "whole"
    with together(store_path, whole, config, "group") as processes:
        assert processes.wait(500) == 0
    with together(store_path, folder, config, "group") as processes:
        end = time.monotonic() + 500
        while not (folder / "last.pt").exists():  # which is after the first of some twenty steps
            assert time.monotonic() < end
            assert processes.poll() is None
            time.sleep(0.01)
        stop(processes, number)
    assert not (folder / "metrics.jsonl").exists() or len(lines(folder)) < 3
    with together(store_path, folder, config, "group") as processes:
        assert processes.wait(500) == 0
    one, other = (checkpoint.load(path / "last.pt")["network"] for path in (folder, whole))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert [line["val_loss"] for line in lines(folder)] == [
        line["val_loss"] for line in lines(whole)
    ]


def stop(processes: subprocess.Popen, number: int) -> None:
    """Sends the signal: SIGINT to torchrun, which passes it on, SIGKILL to the workers, of which
    none survives."""
    if number == signal.SIGINT:
        processes.send_signal(number)
    else:
        children = Path(f"/proc/{processes.pid}/task/{processes.pid}/children").read_text().split()
        os.kill(int(children[0]), number)
    assert processes.wait(120) != 0


def test_a_batch_too_small_for_so_many_is_an_error(
    store: Store, config: Stage1Config, tmp_path: Path
) -> None:
    config = config.model_copy(update={"batch_size": 7, "accumulate": 4})
    with pytest.raises(
        ConfigError, match=r"7 images per step in 1 processes x 4 parts, expected at least 8"
    ):
        prepare_training(TrainingJob(store, config, tmp_path, MADE_FROM))


def test_alone_nothing_is_asked_of_others() -> None:
    assert SINGLE_PROCESS.is_main
    assert SINGLE_PROCESS.total([1, 2.5]) == [1, 2.5]
    assert not Processes(rank=1, size=2).is_main


def test_more_processes_than_gpus_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for name, value in (
        ("RANK", 0),
        ("WORLD_SIZE", 1),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", port),
    ):
        monkeypatch.setenv(name, str(value))
    gpus = torch.cuda.device_count()
    with process_group(gpus, gpus + 1) as processes:
        last = dataclasses.replace(processes, size=gpus + 1)
        expected = (
            rf"a GPU for each of {gpus + 1} processes asked for, found {gpus} usable GPUs"
            if gpus
            else "cuda asked for"
        )
        with pytest.raises(ConfigError, match=expected):
            choose_compute("cuda", processes=last)
