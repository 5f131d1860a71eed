"""Stage 1's training: first the head over the frozen backbone, then the whole network; resumes
where it was stopped.

In: the `train` and `val_a` images of the store that may be fitted. On disk, in the run's folder
stage1/: last.pt, before.pt, best.pt, head.pt, metrics.jsonl, tensorboard/, and at the very end
summary.json. Every random draw follows from the seed, the phase, the epoch, and the step or the
image; last.pt holds the rest, so that a run that was killed ends with the weights of one that was
not. All processes train and the main one writes.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from catalog.artifacts import differences, read_json, require_same, sha256_file, write_json
from catalog.errors import ShelfsortError
from catalog.image_table import ImageTable
from catalog.landmarks import read_landmarks
from catalog.progress import progress
from catalog.store.reader import Store
from stage1_cnn import checkpoint
from stage1_cnn.config import Augment, Stage1Config
from stage1_cnn.device import choose_compute
from stage1_cnn.mixing import Mixing
from stage1_cnn.networks.backbones import Network, build, check_size, synchronised
from stage1_cnn.networks.blocks import depths, set_drop_path
from stage1_cnn.processes import SINGLE_PROCESS, Processes
from stage1_cnn.training.inputs import CachedFeatures, PhotoInputs
from stage1_cnn.training.interrupt import Interrupt
from stage1_cnn.training.journal import Journal
from stage1_cnn.training.learner import (
    Learner,
    Metrics,
    Pair,
    Schedule,
    Tally,
    evaluate,
    require_finite,
    train_steps,
)
from stage1_cnn.training.plan import Phase, check_batch, finished, parts_of, phases_of
from stage1_cnn.transforms import EvalTransform

_log = logging.getLogger(__name__)
Partition = Callable[[Store], tuple[ImageTable, ImageTable]]
"""The rows to fit and the rows to validate on."""


@dataclass(frozen=True)
class Summary:
    """summary.json: origin and sha256 of best.pt, metrics of its epoch (the best on val_a, or the
    last if val_a is empty), number of images, and seconds of training."""

    made_from: dict[str, Any]
    checkpoint: str
    best: dict[str, Any]
    images: dict[str, int]
    unreadable: int
    computed_with: dict[str, str]
    seconds: float


def check_training(
    config: Stage1Config, classes: int, processes: Processes = SINGLE_PROCESS
) -> None:
    """Raises the ConfigError that `train_stage1` would raise before its first step: on what the
    machine or the network can't do, and on unreadable files."""
    choose_compute(config.device, config.precision, processes)
    check_batch(config, processes)
    network = build(
        config.backbone, classes, width=config.width, weights=config.weights, seed=config.seed
    )
    for size in (config.size, config.fit_size):
        check_size(network, config.backbone, size)
    if config.landmarks:
        read_landmarks(config.landmarks)


def train_stage1(
    store: Store,
    config: Stage1Config,
    folder: Path,
    made_from: dict[str, Any],
    processes: Processes = SINGLE_PROCESS,
    partition: Partition | None = None,
) -> Summary:
    """Trains, or goes on training, into `folder` (RUN/stage1); returns at once if that is complete.

    `partition` chooses the rows to fit and to validate on, by default all of train and val_a.
    Raises ArtifactError if the folder holds a training made from something else, ConfigError on
    what the machine or the network can't do, and KeyboardInterrupt after SIGINT, with last.pt
    saved: the same call goes on from there.
    """
    path = folder / "summary.json"
    if path.exists() and (folder / "best.pt").exists():
        summary = Summary(**read_json(path, "stage1"))
        require_same(path, made_from, summary.made_from, "stage1")
        return summary
    with Interrupt() as interrupt:
        trainer = Trainer(store, config, folder, made_from, interrupt, processes, partition)
        with trainer.compute.determinism(config.deterministic):
            summary = trainer.run()
    if processes.is_main:
        write_json(path, asdict(summary))
        (folder / checkpoint.BEFORE).unlink(missing_ok=True)
    return summary


@dataclass(frozen=True)
class ActivePhase:
    """A phase under way: its inputs, what learns from them, and what mixes photos."""

    phase: Phase
    source: PhotoInputs | CachedFeatures
    learner: Learner
    mixing: Mixing


@dataclass(frozen=True)
class Epoch:
    """An epoch under way: its number within the phase, from 1, and how far it is."""

    active: ActivePhase
    number: int
    tally: Tally


class Trainer:
    """One training: the network, the metrics of the epochs so far, and the folder of both."""

    def __init__(
        self,
        store: Store,
        config: Stage1Config,
        folder: Path,
        made_from: dict[str, Any],
        interrupt: Interrupt,
        processes: Processes = SINGLE_PROCESS,
        partition: Partition | None = None,
    ) -> None:
        self.config, self.folder, self.made_from = config, folder, made_from
        self.interrupt, self.processes = interrupt, processes
        self.compute = choose_compute(config.device, config.precision, processes)
        self.taxonomy = store.taxonomy
        train, val = (partition or _all_fit)(store)
        self.resumed = self._read_last()
        transform = EvalTransform.from_json(self.resumed["transform"]) if self.resumed else None
        self.photos = PhotoInputs(store, train, val, config, self.compute, transform)
        check_batch(config, processes)
        if len(self.photos) < 2:
            count = len(self.photos)
            raise ShelfsortError(f"{store.path}: {count} images to train on, expected at least 2")
        self.network = self._make_network()
        self.best: dict[str, Any] | None = self.resumed.get("best")
        self.history: list[dict[str, Any]] = self.resumed.get("history", [])
        self.earlier: float = self.resumed.get("seconds", 0.0)
        self.begun = self.saved = time.monotonic()

    def _read_last(self) -> dict[str, Any]:
        """The content of last.pt, empty if there is none."""
        content = checkpoint.load_last(self.folder)
        self.processes.wait()  # until all have read it, since it will be replaced
        if content is None:
            return {}
        path = self.folder / checkpoint.LAST
        require_same(path, self.made_from, content["made_from"], "stage1")
        now = self.compute.to_json()
        if changes := differences(now, content.get("computed_with", now)):
            consequence = "the training goes on, but not as if undisturbed"
            _log.warning("%s: %s; %s", path, "; ".join(changes), consequence)
        place = f"{content['phase']} epoch {content['epoch']}, step {content['step']}"
        _log.info("%s: going on after %s", path, place)
        return content

    def _make_network(self) -> Network:
        config, name = self.config, self.config.backbone
        weights = "none" if self.resumed else config.weights
        network = build(
            name, len(self.taxonomy), width=config.width, weights=weights, seed=config.seed
        )
        if self.resumed:
            network.load_state_dict(self.resumed["network"])
        if config.drop_path is not None:
            set_drop_path(network.backbone, config.drop_path, name)
        if config.weights != "none":
            network.freeze_norm(config.batch_norm)
        several_gpus = self.compute.device.type == "cuda" and self.processes.size > 1
        if several_gpus and not network.norm_frozen:
            network = synchronised(network)
        network.to(self.compute.device).to(memory_format=torch.channels_last)
        check_size(network, name, config.size)
        check_size(network, name, config.fit_size)
        return network

    def run(self) -> Summary:
        """Runs all phases, or what is left of them."""
        if self.config.weights == "none":
            reason = "a random backbone has no features to keep"
            _log.warning("stage1.weights is none: no head phase, as %s", reason)
        if not len(self.photos.val):
            _log.warning("val_a has no images: the last epoch is kept as the best")
        journal = Journal(self.folder, self.history) if self.processes.is_main else None
        with contextlib.closing(journal) if journal else contextlib.nullcontext():
            for phase in phases_of(self.config):
                self._run_phase(phase, journal)
        return self._summary()

    def _run_phase(self, phase: Phase, journal: Journal | None) -> None:
        """Runs what is left of a phase."""
        if self._finished(phase):
            return
        active = self._start_phase(phase)
        while not self._finished(phase):
            with self.compute.fork_generators():
                self._run_epoch(active, journal)

    def _start_phase(self, phase: Phase) -> ActivePhase:
        config, photos, network = self.config, self.photos, self.network
        if phase.name != "head":
            network.freeze(config.trainable_blocks)
            learner = self._make_learner(phase, network, photos)
            return ActivePhase(phase, photos, learner, Mixing(config.augment, len(self.taxonomy)))
        network.freeze(0)
        cached = CachedFeatures(photos, network, self.folder, self.interrupt.check)
        learner = self._make_learner(phase, network.head, cached)
        return ActivePhase(phase, cached, learner, Mixing(Augment(), len(self.taxonomy)))

    def _finished(self, phase: Phase) -> bool:
        return finished(phase, self.history, self.config.patience)

    def _epochs_done(self, phase: Phase) -> int:
        return sum(line["phase"] == phase.name for line in self.history)

    def _make_learner(
        self, phase: Phase, module: nn.Module, source: PhotoInputs | CachedFeatures
    ) -> Learner:
        config, steps, whole = self.config, source.steps, module is self.network
        warmup, constant = round(config.warmup * steps), config.schedule == "constant"
        counts = torch.from_numpy(self._train_images()).float()
        learner = Learner(
            module,
            config,
            source.compute,
            lr=phase.lr,
            schedule=Schedule(phase.epochs * steps, warmup, constant),
            depths=depths(self.network.backbone),
            shares=counts / counts.sum(),
            average=whole,
        )
        if self.resumed.get("phase") == phase.name:
            learner.restore(self.resumed)
        learner.distribute(config.compile if whole else "none")
        return learner

    def _run_epoch(self, active: ActivePhase, journal: Journal | None) -> None:
        """Steps, validation, journal, checkpoints; last.pt comes last, so that a kill before it
        repeats the rest."""
        started = time.monotonic()
        epoch = Epoch(
            active, self._epochs_done(active.phase) + 1, self._resumed_tally(active.phase)
        )
        images_before = epoch.tally.images
        self._train(epoch)
        rate = (epoch.tally.images - images_before) / (time.monotonic() - started)
        val = self._validate(epoch)
        line = {
            "phase": active.phase.name,
            "epoch": epoch.number,
            "train_loss": self._train_loss(epoch),
            "val_loss": val and val.loss,
            "val_top1": val and val.top1,
            "val_top5": val and val.top5,
            "lr": active.learner.lr,
            "images_per_second": rate,
            "seconds": time.monotonic() - started,
        }
        self.history.append(line)
        if journal:
            journal.add(line)
        if val is None or self.best is None or val.top1 > self.best["val_top1"]:
            self.best = line
        self._save_epoch(active)
        self._save_last(Epoch(active, epoch.number + 1, Tally()))
        if self._any_process(self.interrupt.requested):
            raise KeyboardInterrupt

    def _save_epoch(self, active: ActivePhase) -> None:
        """Writes the checkpoints of an epoch that ended."""
        if not self.processes.is_main:
            return
        phase, number = active.phase, self._epochs_done(active.phase)
        names = []
        if self.best is self.history[-1]:
            names.append("best.pt")
        if self.config.keep_epochs:
            names.append(f"{phase.name}-{number:02d}.pt")
        if phase.name == "head" and self._finished(phase):
            names.append("head.pt")
        for name in names:
            checkpoint.save(self.folder / name, self._content(phase, self._validated(active)))

    def _any_process(self, value: bool) -> bool:
        """Whether `value` is true in any process, so that all act alike."""
        return bool(self.processes.total([value])[0])

    def _resumed_tally(self, phase: Phase) -> Tally:
        """How far a stopped epoch was; empty if none was."""
        content, self.resumed = self.resumed, {}  # needed once, and as large as the network
        if content.get("phase") != phase.name or not content["step"]:
            return Tally()
        tally = content["tally"] if self.processes.is_main else content["tally"] | {"loss": 0.0}
        return Tally(content["step"], **tally)

    def _seeds(self, epoch: Epoch, *more: int) -> np.random.Generator:
        return np.random.default_rng(
            [self.config.seed, epoch.active.phase.number, epoch.number, *more]
        )

    def _train(self, epoch: Epoch) -> None:
        """Takes the steps that are left of an epoch."""
        batch, accumulate = self.config.batch_size, self.config.accumulate
        active, source, tally = epoch.active, epoch.active.source, epoch.tally
        done = tally.step * batch
        order = source.sampler.order(self._seeds(epoch))[: source.steps * batch]
        parts = parts_of(order[done:], batch, accumulate, self.processes)
        pairs = source.training(parts, epoch.number)

        def prepare() -> Mixing:
            """Seeds the generators, so that dropout and mixing follow from the step's number
            alone."""
            seeds = self._seeds(epoch, tally.step, self.processes.rank)
            self.compute.seed(int(seeds.integers(2**63)))
            return active.mixing

        steps = train_steps(active.learner, pairs, tally, parts=accumulate, prepare=prepare)
        title = f"{active.phase.name} {epoch.number}/{active.phase.epochs}"
        with (
            progress(len(order), title, "img", initial=done) as bar,
            contextlib.closing(steps),
        ):
            for images in steps:
                bar.update(images)
                self._save_if_due(epoch)

    def _save_if_due(self, epoch: Epoch) -> None:
        """Saves last.pt within an epoch, from time to time and before it stops."""
        waited = time.monotonic() - self.saved
        due = self.processes.is_main and waited >= 60 * self.config.save_minutes
        stop, save = self.processes.total([self.interrupt.requested, due])
        if stop or save:
            self._save_last(epoch)
        if stop:
            raise KeyboardInterrupt

    def _validate(self, epoch: Epoch) -> Metrics | None:
        source = epoch.active.source

        def watched() -> Iterator[Pair]:
            for pair in source.validation():
                yield pair
                if self.processes.size == 1 and self.interrupt.requested:
                    self._save_last(epoch)
                    raise KeyboardInterrupt

        return evaluate(epoch.active.learner.validated, watched(), source.compute)

    def _losses(self, tally: Tally) -> float:
        """Sum of the epoch's losses in all processes, so far."""
        return self.processes.total([float(tally.loss)])[0]

    def _train_loss(self, epoch: Epoch) -> float:
        place = f"{epoch.active.phase.name} epoch {epoch.number}"
        return require_finite(self._losses(epoch.tally) / max(1, epoch.tally.images), place)

    def _train_images(self) -> np.ndarray:
        return np.bincount(self.photos.train.class_index, minlength=len(self.taxonomy))

    def _validated(self, active: ActivePhase) -> nn.Module:
        """The whole network, with the average of its weights if that is what is validated."""
        learner = active.learner
        return learner.validated if learner.module is self.network else self.network

    def _content(self, phase: Phase, network: nn.Module) -> dict[str, Any]:
        """What every checkpoint holds: the network after the last whole epoch or later, and all it
        needs to score alone."""
        return {
            "made_from": self.made_from,
            "config": self.config.model_dump(mode="json"),
            "transform": self.photos.transform.state(),
            "taxonomy": self.taxonomy.to_json(),
            "network": network.state_dict(),
            "train_images": torch.from_numpy(self._train_images()),
            "epoch": self._epochs_done(phase),
            "phase": phase.name,
            "metrics": self.history[-1] if self.history else {},
        }

    def _save_last(self, epoch: Epoch) -> None:
        self._train_loss(epoch)  # a network that diverged must not replace the one saved before
        tally = {"images": epoch.tally.images, "loss": self._losses(epoch.tally)}
        resume = {
            **epoch.active.learner.state(),
            "step": epoch.tally.step,
            "tally": tally,
            "history": self.history,
            "best": self.best,
            "seconds": self._seconds(),
            "computed_with": self.compute.to_json(),
        }
        if self.processes.is_main:
            content = self._content(epoch.active.phase, self.network)
            checkpoint.save_last(self.folder, {**content, **resume})
        self.saved = time.monotonic()

    def _seconds(self) -> float:
        return self.earlier + time.monotonic() - self.begun

    def _summary(self) -> Summary:
        # Waits for all processes, and so until the main one has written best.pt.
        unreadable = self.processes.union(self.photos.unreadable)
        return Summary(
            made_from=self.made_from,
            checkpoint=sha256_file(self.folder / "best.pt"),
            best=self.best or {},
            images={"train": len(self.photos.train), "val_a": len(self.photos.val)},
            unreadable=len(unreadable),
            computed_with=self.compute.to_json(),
            seconds=self._seconds(),
        )


def _all_fit(store: Store) -> tuple[ImageTable, ImageTable]:
    train, val = store.images("train"), store.images("val_a")
    return train[train.fit], val[val.fit]
