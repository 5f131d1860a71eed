import json
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from catalog.errors import ArtifactError, ConfigError
from catalog.store.reader import Store
from stage1_cnn import checkpoint
from stage1_cnn.config import Augment, Stage1Config
from stage1_cnn.networks.backbones import build
from stage1_cnn.training.interrupt import Interrupt
from stage1_cnn.training.setup import TrainingJob, prepare_training
from stage1_cnn.training.trainer import Summary, Trainer, train_stage1
from tests.moments import Moment, kill_at_moment
from tests.stage1_cnn.child import MADE_FROM

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def config(config: Stage1Config, request: pytest.FixtureRequest) -> Stage1Config:
    """In either precision: a training that was stopped ends as it would have in both."""
    return config.model_copy(update={"precision": request.param})


@pytest.fixture(scope="module")
def unbroken(
    store_path: Path, config: Stage1Config, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Summary]:
    """A whole training that nothing disturbed, and its summary."""
    folder = tmp_path_factory.mktemp("unbroken") / "stage1"
    return folder, train_stage1(TrainingJob(Store(store_path), config, folder, MADE_FROM))


def lines(folder: Path) -> list[dict]:
    """metrics.jsonl without the times."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k not in ("seconds", "images_per_second")}
        for line in found
    ]


def assert_same_training(folder: Path, expected: Path) -> None:
    assert lines(folder) == lines(expected)
    for name in ("best.pt", "head.pt", "last.pt"):
        one, other = checkpoint.load(folder / name), checkpoint.load(expected / name)
        assert (one["phase"], one["epoch"]) == (other["phase"], other["epoch"])
        for key, value in one["network"].items():
            assert torch.equal(value, other["network"][key]), f"{name}: {key}"


def test_files_and_their_content(unbroken: tuple[Path, Summary], config: Stage1Config) -> None:
    folder, summary = unbroken
    names = {"best.pt", "last.pt", "head.pt", "metrics.jsonl", "summary.json", "tensorboard"}
    assert {path.name for path in folder.iterdir()} == names
    found = lines(folder)
    assert [(line["phase"], line["epoch"]) for line in found] == [
        ("head", 1),
        ("head", 2),
        ("finetune", 1),
        ("finetune", 2),
    ]
    assert found[0].keys() == {
        "phase",
        "epoch",
        "train_loss",
        "val_loss",
        "val_top1",
        "val_top5",
        "lr",
    }
    assert json.loads((folder / "summary.json").read_text())["best"] == summary.best
    best = checkpoint.load(folder / "best.pt")
    assert (
        best["metrics"]["val_top1"]
        == max(line["val_top1"] for line in found)
        == summary.best["val_top1"]
    )
    assert best["config"] == config.model_dump(mode="json")
    assert best["made_from"] == MADE_FROM
    assert any((folder / "tensorboard").iterdir())


def test_it_learns(unbroken: tuple[Path, Summary]) -> None:
    assert unbroken[1].best["val_top1"] >= 0.7, "chance is 0.25"


def test_the_head_phase_leaves_the_backbone_alone(
    unbroken: tuple[Path, Summary], config: Stage1Config
) -> None:
    folder, _ = unbroken
    start = build(config.backbone, 4, weights=config.weights).state_dict()
    head, last = (checkpoint.load(folder / name)["network"] for name in ("head.pt", "last.pt"))
    assert all(torch.equal(head[key], start[key]) for key in start if key.startswith("backbone."))
    assert not torch.equal(head["head.weight"], last["head.weight"])
    assert any(
        not torch.equal(last[key], start[key]) for key in start if key.startswith("backbone.")
    )


def test_a_finished_training_is_not_repeated(
    unbroken: tuple[Path, Summary], store: Store, config: Stage1Config
) -> None:
    folder, summary = unbroken
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert train_stage1(TrainingJob(store, config, folder, MADE_FROM)) == summary
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_something_else_is_refused(
    unbroken: tuple[Path, Summary], store: Store, config: Stage1Config
) -> None:
    with pytest.raises(ArtifactError, match=r"config\.lr was 0\.001, is now 0\.1 .*step stage1"):
        train_stage1(TrainingJob(store, config, unbroken[0], {**MADE_FROM, "config": {"lr": 0.1}}))


def test_killed_at_any_step_it_ends_the_same(
    unbroken: tuple[Path, Summary], store_path: Path, config: Stage1Config, tmp_path: Path
) -> None:
    folder = tmp_path / "stage1"
    config = config.model_copy(update={"save_minutes": 0})
    assert killed(Moment(20, "save_last", delay=0.005), store_path, folder, config)
    assert len(lines(folder)) == 2, "within the first epoch of fine-tuning"
    train_stage1(TrainingJob(Store(store_path), config, folder, MADE_FROM))
    assert_same_training(folder, unbroken[0])


def killed(moment: Moment, store_path: Path, folder: Path, config: Stage1Config) -> bool:
    """Whether a training, in a process of its own, came to the moment at which it is killed."""
    arguments = [str(store_path), str(folder), config.model_dump_json()]
    command = moment.command(folder.with_name("count"), "tests.stage1_cnn.child", *arguments)
    threads = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    return kill_at_moment(subprocess.Popen(command, cwd=ROOT, env=threads))


TWO_THREADS = os.environ | {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
"""Of arithmetic, which don't spin while they wait: on a busy machine that would take many times as
long."""


def test_in_two_threads_a_killed_training_ends_the_same(
    store_path: Path, config: Stage1Config, tmp_path: Path
) -> None:
    config = config.model_copy(update={"save_minutes": 0, "head_epochs": 1, "epochs": 1})
    moments = {"whole": [Moment()], "broken": [Moment(12, "save_last"), Moment()]}
    for name, several in moments.items():
        for moment in several:
            arguments = [str(store_path), str(tmp_path / name), config.model_dump_json()]
            command = moment.command(tmp_path / "count", "tests.stage1_cnn.child", *arguments)
            child = subprocess.Popen(command, cwd=ROOT, env=TWO_THREADS)
            assert kill_at_moment(child) == bool(moment.number)
    assert_same_training(tmp_path / "broken", tmp_path / "whole")


def test_interrupted_within_an_epoch_it_ends_the_same(
    unbroken: tuple[Path, Summary], store: Store, config: Stage1Config, tmp_path: Path
) -> None:
    folder, handler = tmp_path / "stage1", signal.getsignal(signal.SIGINT)
    with (
        pytest.raises(KeyboardInterrupt),
        Moment(18, "step").watched(lambda: os.kill(os.getpid(), signal.SIGINT)),
    ):
        train_stage1(TrainingJob(store, config, folder, MADE_FROM))
    assert signal.getsignal(signal.SIGINT) is handler
    assert len(lines(folder)) == 2 and not (folder / "summary.json").exists(), (
        "within the first epoch of fine-tuning"
    )
    train_stage1(TrainingJob(store, config, folder, MADE_FROM))
    assert_same_training(folder, unbroken[0])


EVERYTHING = {
    "ema_decay": 0.9,
    "layer_decay": 0.7,
    "trainable_blocks": 3,
    "accumulate": 2,
    "sampling": "levelled",
    "train_size": 24,
    "normalisation": "mean_image",
    "shuffle_block": 8,
    "augment": Augment(
        mixup=0.2,
        cutmix=1,
        erase=0.3,
        policy="randaugment",
        rotate=10,
        shift=0.1,
        shear=5,
        zoom=0.1,
    ),
}


def test_with_every_option_on_an_interrupted_run_ends_the_same(
    store: Store, config: Stage1Config, tmp_path: Path
) -> None:
    config = config.model_copy(update=EVERYTHING)
    train_stage1(TrainingJob(store, config, tmp_path / "whole", MADE_FROM))
    folder, steps = tmp_path / "broken", []

    class Interrupts(Interrupt):
        """Asks to stop after every thirteenth look, of which the frozen features take eight."""

        @property
        def requested(self) -> bool:
            steps.append(1)
            return len(steps) % 13 == 0

        @requested.setter
        def requested(self, value: bool) -> None:
            pass

    for _ in range(30):
        with Interrupts() as interrupt:
            try:
                prepared = prepare_training(TrainingJob(store, config, folder, MADE_FROM))
                Trainer(*prepared, interrupt).run()
                break
            except KeyboardInterrupt:
                continue
    assert len(steps) > 30
    assert_same_training(folder, tmp_path / "whole")
    best, last = checkpoint.load(folder / "best.pt"), checkpoint.load(folder / "last.pt")
    assert last["ema"]["steps"] > 0
    assert any(
        not torch.equal(best["network"][key], last["network"][key]) for key in best["network"]
    ), "best is the average"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_ten_random_steps_it_ends_the_same(
    store_path: Path, config: Stage1Config, tmp_path: Path
) -> None:
    config = config.model_copy(update={**EVERYTHING, "epochs": 3, "save_minutes": 0})
    train_stage1(TrainingJob(Store(store_path), config, tmp_path / "whole", MADE_FROM))
    folder, rng = tmp_path / "broken", np.random.default_rng(0)
    for _ in range(10):  # a process saves at most two of the 40 steps
        moment = Moment(int(rng.integers(1, 4)), "save_last", delay=rng.choice([0, 0.002, 0.005]))
        assert killed(moment, store_path, folder, config), "it ended before it was killed"
    train_stage1(TrainingJob(Store(store_path), config, folder, MADE_FROM))
    assert_same_training(folder, tmp_path / "whole")


def test_a_torn_checkpoint_falls_back_to_the_one_before(
    unbroken: tuple[Path, Summary],
    store: Store,
    config: Stage1Config,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "stage1"
    with Interrupt() as interrupt:
        often = config.model_copy(update={"save_minutes": 0})
        Trainer(*prepare_training(TrainingJob(store, often, folder, MADE_FROM)), interrupt).run()
    last = folder / "last.pt"
    last.write_bytes(last.read_bytes()[:-2000])
    train_stage1(TrainingJob(store, config, folder, MADE_FROM))
    assert "last.pt: damaged" in caplog.text
    assert "going on from before.pt, after finetune epoch 1, step" in caplog.text
    assert_same_training(folder, unbroken[0])


def test_another_device_goes_on_with_a_warning(
    unbroken: tuple[Path, Summary],
    store: Store,
    config: Stage1Config,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    content = checkpoint.load(unbroken[0] / "last.pt", resume=True)
    computed_with = {"device": "cpu", "precision": config.precision}
    assert content["computed_with"] == computed_with
    for device, said in (("cpu", False), ("a GPU", True)):
        checkpoint.save(
            tmp_path / "last.pt", content | {"computed_with": computed_with | {"device": device}}
        )
        prepare_training(TrainingJob(store, config, tmp_path, MADE_FROM))
        assert (
            "last.pt: device was 'a GPU', is now 'cpu'; the training goes on" in caplog.text
        ) == said


def test_every_epoch_is_kept_where_asked(
    store: Store, config: Stage1Config, tmp_path: Path
) -> None:
    train_stage1(
        TrainingJob(
            store, config.model_copy(update={"keep_epochs": True, "head_epochs": 1}), tmp_path, {}
        )
    )
    assert sorted(path.name for path in tmp_path.glob("*-*.pt")) == [
        "finetune-01.pt",
        "finetune-02.pt",
        "head-01.pt",
    ]
    kept, last = (
        checkpoint.load(tmp_path / name)["network"] for name in ("finetune-02.pt", "last.pt")
    )
    assert all(torch.equal(kept[key], last[key]) for key in last)


def test_it_stops_early(store: Store, config: Stage1Config, tmp_path: Path) -> None:
    config = config.model_copy(
        update={"epochs": 0, "head_epochs": 40, "patience": 2, "head_lr": 1e-9}
    )
    train_stage1(TrainingJob(store, config, tmp_path / "stage1", MADE_FROM))
    assert len(lines(tmp_path / "stage1")) == 3
    assert (tmp_path / "stage1" / "head.pt").exists()


def test_random_weights_skip_the_head_phase(
    store: Store, config: Stage1Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    train_stage1(
        TrainingJob(
            store,
            config.model_copy(update={"weights": "none", "epochs": 1}),
            tmp_path / "stage1",
            MADE_FROM,
        )
    )
    assert [line["phase"] for line in lines(tmp_path / "stage1")] == ["finetune"]
    assert "no head phase" in caplog.text
    assert not (tmp_path / "stage1" / "head.pt").exists()


def test_its_own_checkpoint_serves_as_weights(
    unbroken: tuple[Path, Summary], config: Stage1Config
) -> None:
    path = unbroken[0] / "best.pt"
    network, saved = (
        build(config.backbone, 9, weights=str(path)).state_dict(),
        checkpoint.load(path)["network"],
    )
    assert all(
        torch.equal(network[key], saved[key]) for key in saved if key.startswith("backbone.")
    )
    assert network["head.weight"].shape[0] == 9
    with pytest.raises(ConfigError, match=f"a checkpoint of {config.backbone}, expected resnet18"):
        build("resnet18", 9, weights=str(path))
