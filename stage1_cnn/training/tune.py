"""Search for stage 1's learning rate, and for what else the published system tuned, by short
trainings validated on val_a.

In: the store's train and val_a, never another split. On disk, in the given folder: one folder per
trial (metrics.jsonl, trial.json) and range/range.csv, each with a made_from.json. The head is
trained once and every trial fine-tunes from it. After an interruption the same call goes on; what
another search left is removed.
"""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from catalog.artifacts import read_json, write_json, write_text
from catalog.errors import ShelfsortError
from catalog.image_table import ImageTable
from catalog.intervals import effective_groups, wilson
from catalog.progress import progress
from catalog.splits import sample_hash
from catalog.store.reader import Store
from stage1_cnn import checkpoint
from stage1_cnn.config import Stage1Config
from stage1_cnn.training.interrupt import Interrupt
from stage1_cnn.training.learner import Learner, Tally, train_steps
from stage1_cnn.training.plan import parts_of
from stage1_cnn.training.setup import Partition, Setup, TrainingJob, prepare_training
from stage1_cnn.training.trainer import train_stage1

RATES = (1e-5, 3.3e-5, 1e-4, 3.3e-4, 1e-3)
BLOCKS = (0, 1, 2)
SHARES = (0.20, 0.25, 0.30)
LOWEST, HIGHEST, STEPS = 1e-7, 1.0, 100
"""Of the range test."""


@dataclass(frozen=True)
class Trial:
    """One short training: what it varies (`lr`, `trainable_blocks`, `validation_share`), and its
    values.

    `validation_share` is the share of train and val_a together that is held out; None fits all of
    train.
    """

    what: str
    lr: float
    trainable_blocks: int | str
    validation_share: float | None = None

    @property
    def name(self) -> str:
        """The name of its folder."""
        value = getattr(self, self.what)
        return f"{self.what}-{value:g}" if isinstance(value, float) else f"{self.what}-{value}"


@dataclass(frozen=True)
class TrialOutcome:
    """A trial's best epoch of fine-tuning on val_a: top-1 over `val_images` images with its 95%
    interval, and the loss. The interval counts each product as one item, as its images tend to be
    right or wrong together."""

    trial: Trial
    epoch: int
    train_images: int
    val_images: int
    val_top1: float
    low: float
    high: float
    val_loss: float
    seconds: float


class Search:
    """The trials of one search: `epochs` of fine-tuning each, on `photos` of the training photos
    (None: all)."""

    def __init__(
        self,
        store: Store,
        config: Stage1Config,
        folder: Path,
        made_from: dict[str, Any],
        *,
        epochs: int,
        photos: int | None,
    ) -> None:
        self.store, self.folder, self.photos = store, folder, photos
        self.config = config.model_copy(update={"epochs": epochs, "patience": None})
        self.made_from = made_from | {"epochs": epochs, "photos": photos}

    def run(self) -> list[TrialOutcome]:
        """Tries learning rates first; then, at the best of them, blocks and shares."""
        blocks = self.config.trainable_blocks
        trials = [Trial("lr", rate, blocks) for rate in RATES]
        with progress(len(RATES) + len(BLOCKS) + len(SHARES), "trials", "run") as bar:
            outcomes = self._done(trials, bar.update)
            best = max(outcomes, key=lambda outcome: outcome.val_top1).trial.lr
            trials = [Trial("trainable_blocks", best, count) for count in BLOCKS]
            trials += [Trial("validation_share", best, blocks, share) for share in SHARES]
            outcomes += self._done(trials, bar.update)
        shutil.rmtree(self.folder / "heads", ignore_errors=True)
        return outcomes

    def _done(self, trials: Sequence[Trial], update: Callable[[], Any]) -> list[TrialOutcome]:
        out = []
        for trial in trials:
            out.append(self._outcome(trial))
            update()
        return out

    def _outcome(self, trial: Trial) -> TrialOutcome:
        """The outcome of a trial, from trial.json if that exists."""
        folder = self.folder / trial.name
        path, made_from = folder / "trial.json", self.made_from | {"trial": asdict(trial)}
        _claim(folder, made_from)
        if path.exists():
            return TrialOutcome(trial, **read_json(path, "tune"))
        outcome = self._train(trial, folder, made_from)
        write_json(path, {key: value for key, value in asdict(outcome).items() if key != "trial"})
        for name in ("best.pt", "last.pt", "head.pt", "summary.json"):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        return outcome

    def _train(self, trial: Trial, folder: Path, made_from: dict[str, Any]) -> TrialOutcome:
        config = self.config.model_copy(
            update={"lr": trial.lr, "trainable_blocks": trial.trainable_blocks}
        )
        partition = self._partition(trial.validation_share)
        if config.weights != "none" and config.head_epochs and not (folder / "last.pt").exists():
            head = checkpoint.load(self.head(trial.validation_share) / "last.pt", resume=True)
            checkpoint.save(
                folder / "last.pt", {**head, "made_from": made_from, "best": None, "seconds": 0.0}
            )
        summary = train_stage1(
            TrainingJob(self.store, config, folder, made_from, partition=partition)
        )
        lines = [
            json.loads(line)
            for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        best = max(
            (line for line in lines if line["phase"] == "finetune"),
            key=lambda line: line["val_top1"] or 0.0,
        )
        count, top1 = summary.images["val_a"], best["val_top1"] or 0.0
        low, high = map(float, wilson(top1, self._independent))
        return TrialOutcome(
            trial,
            best["epoch"],
            summary.images["train"],
            count,
            top1,
            low,
            high,
            best["val_loss"] or 0.0,
            summary.seconds,
        )

    @cached_property
    def _independent(self) -> float:
        """The effective number of independent products in val_a."""
        table = self.store.images("val_a")
        return effective_groups(self.store.groups_of(table.product_id[table.fit], "val_a"))

    def head(self, share: float | None = None) -> Path:
        """Trains the head alone; returns the folder of that training."""
        folder = self.folder / "heads" / ("all" if share is None else f"{share:g}")
        config, made_from = (
            self.config.model_copy(update={"epochs": 0}),
            self.made_from | {"share": share},
        )
        _claim(folder, made_from)
        train_stage1(
            TrainingJob(self.store, config, folder, made_from, partition=self._partition(share))
        )
        return folder

    def _partition(self, share: float | None) -> Partition:
        def partition(store: Store) -> tuple[ImageTable, ImageTable]:
            train, val = store.images("train"), store.images("val_a")
            train, val = train[train.fit], val[val.fit]
            if not len(val):
                raise ShelfsortError(
                    f"{store.path}: val_a has no images, and trials are validated on it"
                )
            order = sample_hash(train.product_id, "stage 1 trials", self.config.seed)
            if share is not None:
                # val_a is part of what is held out
                kept = (1 - share) * (len(train) + len(val)) / max(1, len(train))
                inside = order < np.uint64(min(1.0, kept) * (2**64 - 2**11))
                train, order = train[inside], order[inside]
            if self.photos is not None and len(train) > self.photos:
                train = train[np.sort(np.argsort(order, kind="stable")[: self.photos])]
            return train, val

        return partition

    def range_test(self) -> list[tuple[float, float]]:
        """Learning rate and loss of each step while the rate rises from LOWEST to HIGHEST (Smith
        2017); ends when the loss is four times its minimum. Call it before `run`, which removes the
        head that both start from."""
        path = self.folder / "range" / "range.csv"
        _claim(path.parent, self.made_from)
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()[1:]
            return [
                (float(rate), float(loss)) for rate, loss in (line.split(",") for line in lines)
            ]
        pretrained = self.config.weights != "none" and self.config.head_epochs
        folder = self.head() if pretrained else self.folder / "heads" / "none"
        with Interrupt() as interrupt:
            setup, _ = prepare_training(
                TrainingJob(
                    self.store,
                    self.config,
                    folder,
                    self.made_from | {"share": None},
                    partition=self._partition(None),
                )
            )
            rows = list(_rising(setup, interrupt))
        write_text(
            path, "".join(["lr,loss\n", *(f"{rate:.6g},{loss:.6g}\n" for rate, loss in rows)])
        )
        return rows


def _claim(folder: Path, made_from: dict[str, Any]) -> None:
    """Records in a folder what it is made from; removes first what was made from something else."""
    path, plain = folder / "made_from.json", json.loads(json.dumps(made_from))
    if not path.exists() or read_json(path, "tune") != plain:
        shutil.rmtree(folder, ignore_errors=True)
        write_json(path, plain)


def _rising(setup: Setup, interrupt: Interrupt) -> Iterator[tuple[float, float]]:
    """The learning rates of steps with rising rates, and their losses, smoothed over ten steps."""
    config, network, photos = setup.config, setup.network, setup.photos
    network.freeze(config.trainable_blocks)
    learner = Learner(network, config, setup.compute, lr=HIGHEST, schedule=_growth)  # type: ignore[arg-type]
    rng, tally = np.random.default_rng(config.seed), Tally()
    smooth, least, seen = 0.0, math.inf, 0.0
    rounds = -(-STEPS // photos.steps)
    order = np.concatenate(
        [photos.sampler.order(rng)[: photos.steps * config.batch_size] for _ in range(rounds)]
    )
    parts = parts_of(
        order[: STEPS * config.batch_size], config.batch_size, config.accumulate, setup.processes
    )
    with setup.compute.fork_generators():
        setup.compute.seed(config.seed)
        for step, images in enumerate(
            train_steps(learner, photos.training(parts, 1), tally, parts=config.accumulate), 1
        ):
            interrupt.check()
            loss = (float(tally.loss) - seen) / max(1, images)
            smooth, seen = 0.9 * smooth + 0.1 * loss, float(tally.loss)
            unbiased = smooth / (1 - 0.9**step)
            least = min(least, unbiased)
            if not unbiased < 4 * least:
                return
            yield learner.lr, unbiased


def _growth(step: int) -> float:
    return (LOWEST / HIGHEST) ** (1 - min(step, STEPS - 1) / (STEPS - 1))


def steepest(rows: Sequence[tuple[float, float]]) -> float | None:
    """The rate at which a range test's loss falls fastest; None if it has fewer than five steps."""
    if len(rows) < 5:
        return None
    rates, losses = np.array(rows).T
    return float(rates[np.gradient(losses, np.log(rates)).argmin()])
