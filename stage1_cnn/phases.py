"""Stage 1's training: the head over the frozen backbone first, then the whole network; resumes where it was stopped.

In: the store's `train` and `val_a` images that may be fitted. On disk, in the run's folder stage1/: last.pt, before.pt, best.pt,
head.pt, metrics.jsonl, tensorboard/, and at the very end summary.json. Every random draw follows from the seed, the phase, the
epoch, and the step or the image; last.pt holds the rest, so that a run that was killed ends with the weights of one that was not.
Of several processes all train and one writes.
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
from catalog.store import Store
from stage1_cnn import checkpoint
from stage1_cnn.backbones import Network, build, check_size, synchronised
from stage1_cnn.blocks import depths, set_drop_path
from stage1_cnn.config import Augment, Stage1Config
from stage1_cnn.device import choose_engine, keep_memory
from stage1_cnn.interrupt import Interrupt
from stage1_cnn.journal import Journal
from stage1_cnn.mixing import Mixing
from stage1_cnn.plan import Phase, check_batch, finished, parts_of, phases_of
from stage1_cnn.processes import ALONE, Processes
from stage1_cnn.sources import CachedFeatures, Photos
from stage1_cnn.train import Learner, Metrics, Pair, Schedule, Tally, evaluate, require_finite, train_steps
from stage1_cnn.transforms import EvalTransform

_log = logging.getLogger(__name__)
Cut = Callable[[Store], tuple[ImageTable, ImageTable]]
"""The rows to fit, and those to judge by."""


@dataclass(frozen=True)
class Summary:
    """summary.json: what was made of what, the best epoch on val_a (the last where that is empty), and what it took."""

    made_from: dict[str, Any]
    checkpoint: str
    best: dict[str, Any]
    images: dict[str, int]
    unreadable: int
    computed_with: dict[str, str]
    seconds: float


def check_training(config: Stage1Config, classes: int, processes: Processes = ALONE) -> None:
    """Raises ConfigError where `train_stage1` would before its first step: on what the machine or the network can't do, and on
    files that can't be read."""
    choose_engine(config.device, config.precision, processes)
    check_batch(config, processes)
    network = build(config.backbone, classes, width=config.width, weights=config.weights, seed=config.seed)
    for size in (config.size, config.fit_size):
        check_size(network, config.backbone, size)
    if config.landmarks:
        read_landmarks(config.landmarks)


def train_stage1(
    store: Store, config: Stage1Config, folder: Path, made_from: dict[str, Any], processes: Processes = ALONE,
    cut: Cut | None = None,
) -> Summary:  # fmt: skip
    """Trains, or goes on training, into `folder` (RUN/stage1); returns at once where it is complete.

    `cut` chooses the rows to fit and to judge by, where these are not all of train and val_a.
    Raises ArtifactError where the folder holds a training made from something else, ConfigError on what the machine or
    the network can't do, KeyboardInterrupt after SIGINT, with last.pt saved: the same call goes on from there.
    """
    path = folder / "summary.json"
    rebuild = checkpoint.rebuild_command(path)
    if path.exists() and (folder / "best.pt").exists():
        found = Summary(**read_json(path, rebuild))
        require_same(path, made_from, found.made_from, rebuild)
        return found
    with Interrupt() as interrupt:
        trainer = Trainer(store, config, folder, made_from, interrupt, processes, cut)
        with trainer.engine.exactly(config.deterministic):
            summary = trainer.run()
    if processes.writes:
        write_json(path, asdict(summary))
        (folder / checkpoint.BEFORE).unlink(missing_ok=True)
    return summary


class Trainer:
    """The state of one training: network, phase, epochs done, metrics so far; and the folder that keeps all of it."""

    def __init__(
        self, store: Store, config: Stage1Config, folder: Path, made_from: dict[str, Any], interrupt: Interrupt,
        processes: Processes = ALONE, cut: Cut | None = None,
    ) -> None:  # fmt: skip
        self.config, self.folder, self.made_from, self.interrupt = config, folder, made_from, interrupt
        self.engine, self.processes = choose_engine(config.device, config.precision, processes), processes
        if self.engine.device.type == "cpu":
            keep_memory()
        self.taxonomy = store.taxonomy
        train, val = (cut or _all_fit)(store)
        self.resumed = self._read_last()
        transform = EvalTransform.from_json(self.resumed["transform"]) if self.resumed else None
        self.photos = Photos(store, train, val, config, self.engine, transform)
        check_batch(config, processes)
        if len(self.photos) < 2:
            raise ShelfsortError(f"{store.path}: {len(self.photos)} images to train on, expected at least 2")
        self.network = self._make_network()
        self.best: dict[str, Any] | None = self.resumed.get("best")
        self.history: list[dict[str, Any]] = self.resumed.get("history", [])
        self.earlier: float = self.resumed.get("seconds", 0.0)
        self.begun = self.saved = time.monotonic()

    def _read_last(self) -> dict[str, Any]:
        """The content of last.pt, empty where there is none."""
        content = checkpoint.load_last(self.folder)
        self.processes.wait()  # until all have read it: it will be replaced
        if content is None:
            return {}
        path = self.folder / checkpoint.LAST
        require_same(path, self.made_from, content["made_from"], checkpoint.rebuild_command(path))
        if changes := differences(now := self.engine.to_json(), content.get("computed_with", now)):
            _log.warning("%s: %s; the training goes on, but not as if undisturbed", path, "; ".join(changes))
        _log.info("%s: going on after %s epoch %d, step %d", path, content["phase"], content["epoch"], content["step"])
        return content

    def _make_network(self) -> Network:
        config = self.config
        weights = "none" if self.resumed else config.weights
        network = build(config.backbone, len(self.taxonomy), width=config.width, weights=weights, seed=config.seed)
        if self.resumed:
            network.load_state_dict(self.resumed["network"])
        if config.drop_path is not None:
            set_drop_path(network.backbone, config.drop_path, config.backbone)
        if config.weights != "none":
            network.freeze_norm(config.batch_norm)
        if self.engine.device.type == "cuda" and self.processes.size > 1 and not network.norm_frozen:
            network = synchronised(network)
        network.to(self.engine.device, memory_format=torch.channels_last)
        check_size(network, config.backbone, config.size)
        check_size(network, config.backbone, config.fit_size)
        return network

    def run(self) -> Summary:
        """All phases, or what is left of them."""
        if self.config.weights == "none":
            _log.warning("stage1.weights is none: no head phase, as a random backbone has no features to keep")
        if not len(self.photos.val):
            _log.warning("val_a has no images: the last epoch is kept as the best")
        self.journal = Journal(self.folder, self.history) if self.processes.writes else None
        with contextlib.closing(self.journal) if self.journal else contextlib.nullcontext():
            for phase in phases_of(self.config):
                self._run_phase(phase)
        return self._summary()

    def _run_phase(self, phase: Phase) -> None:
        """What is left of a phase."""
        self.phase, self.epoch = phase, sum(line["phase"] == phase.name for line in self.history)
        if self._finished():
            return
        frozen = phase.name == "head"
        self.network.freeze(0 if frozen else self.config.trainable_blocks)
        photos, network = self.photos, self.network
        self.source = CachedFeatures(photos, network, self.folder, self.interrupt.check) if frozen else photos
        self.learner = self._make_learner(network.head if frozen else network)
        self.mixing = Mixing(Augment() if frozen else self.config.augment, len(self.taxonomy))
        while not self._finished():
            with self.engine.fork_generators():
                self._run_epoch()

    def _finished(self) -> bool:
        return finished(self.phase, self.history, self.config.patience)

    def _make_learner(self, module: nn.Module) -> Learner:
        config, steps, whole = self.config, self.source.steps, module is self.network
        schedule = Schedule(self.phase.epochs * steps, round(config.warmup * steps), config.schedule == "constant")
        counts = torch.from_numpy(self._train_images()).float()
        learner = Learner(
            module, config, self.source.engine, lr=self.phase.lr, schedule=schedule, depths=depths(self.network.backbone),
            shares=counts / counts.sum(), average=whole,
        )  # fmt: skip
        if self.resumed.get("phase") == self.phase.name:
            learner.restore(self.resumed)
        learner.distribute(config.compile if whole else "none")
        return learner

    def _run_epoch(self) -> None:
        """Steps, validation, journal, checkpoints; last.pt comes last, so that a kill before it repeats the rest."""
        started = time.monotonic()
        self.tally = self._start_epoch()
        seen = self.tally.images
        self._train()
        rate = (self.tally.images - seen) / (time.monotonic() - started)
        val = self._validate()
        line = {
            "phase": self.phase.name, "epoch": self.epoch + 1, "train_loss": self._train_loss(),
            "val_loss": val and val.loss, "val_top1": val and val.top1, "val_top5": val and val.top5,
            "lr": self.learner.lr, "images_per_second": rate, "seconds": time.monotonic() - started,
        }  # fmt: skip
        self._keep(line, best=val is None or self.best is None or val.top1 > self.best["val_top1"])
        self._save_last()
        if self._told(self.interrupt.requested):
            raise KeyboardInterrupt

    def _keep(self, line: dict[str, Any], best: bool) -> None:
        """Writes an epoch's line, and its checkpoints."""
        self.history.append(line)
        if self.journal:
            self.journal.add(line)
        self.epoch, self.tally = self.epoch + 1, Tally()
        self.best = line if best else self.best
        if self.processes.writes and best:
            checkpoint.save(self.folder / "best.pt", self._content())
        if self.processes.writes and self.config.keep_epochs:
            checkpoint.save(self.folder / f"{self.phase.name}-{self.epoch:02d}.pt", self._content())
        if self.processes.writes and self.phase.name == "head" and self._finished():
            checkpoint.save(self.folder / "head.pt", self._content())

    def _told(self, value: bool) -> bool:
        """Whether any process says so, for all to act alike."""
        return bool(self.processes.total([value])[0])

    def _start_epoch(self) -> Tally:
        """Empty, or how far a stopped epoch was."""
        content, self.resumed = self.resumed, {}  # of use once, and as large as the network
        if content.get("phase") != self.phase.name or not content["step"]:
            return Tally()
        tally = content["tally"] if self.processes.writes else content["tally"] | {"loss": 0.0}
        return Tally(content["step"], **tally)

    def _seeds(self) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, self.phase.number, self.epoch + 1])

    def _train(self) -> None:
        """The epoch's steps, or those that are left of it."""
        batch, steps, accumulate = self.config.batch_size, self.source.steps, self.config.accumulate
        order = self.source.sampler.order(self._seeds())[: steps * batch]
        parts = parts_of(order[self.tally.step * batch :], batch, accumulate, self.processes)
        pairs = self.source.training(parts, self.epoch + 1)
        title = f"{self.phase.name} {self.epoch + 1}/{self.phase.epochs}"
        stepping = train_steps(self.learner, pairs, self.tally, parts=accumulate, prepare=self._prepare)
        with (
            progress(len(order), title, "img", initial=self.tally.step * batch) as bar,
            contextlib.closing(stepping) as done,
        ):
            for images in done:
                bar.update(images)
                due = self.processes.writes and time.monotonic() - self.saved >= 60 * self.config.save_minutes
                stop, save = self.processes.total([self.interrupt.requested, due])
                if stop or save:
                    self._save_last()
                if stop:
                    raise KeyboardInterrupt

    def _prepare(self) -> Mixing:
        """Seeds the generators for the next step, so that dropout and mixing follow from its number alone."""
        seeds = np.random.default_rng([self.config.seed, self.phase.number, self.epoch + 1, self.tally.step, self.processes.rank])
        self.engine.seed(int(seeds.integers(2**63)))
        return self.mixing

    def _validate(self) -> Metrics | None:
        def watched() -> Iterator[Pair]:
            for pair in self.source.validation():
                yield pair
                if self.processes.size == 1 and self.interrupt.requested:
                    self._save_last()
                    raise KeyboardInterrupt

        return evaluate(self.learner.judged, watched(), self.source.engine)

    def _losses(self) -> float:
        """Sum of the epoch's losses in all processes, so far."""
        return self.processes.total([float(self.tally.loss)])[0]

    def _train_loss(self) -> float:
        place = f"{self.phase.name} epoch {self.epoch + 1}"
        return require_finite(self._losses() / max(1, self.tally.images), place)

    def _train_images(self) -> np.ndarray:
        return np.bincount(self.photos.train.class_index, minlength=len(self.taxonomy))

    def _content(self, judged: bool = True) -> dict[str, Any]:
        """What every checkpoint holds: the network after `epoch` epochs of `phase` (`judged`: as it is validated), and all it
        needs to score alone."""
        network = self.learner.judged if judged and self.learner.module is self.network else self.network
        return {
            "made_from": self.made_from, "config": self.config.model_dump(mode="json"),
            "transform": self.photos.transform.state(), "taxonomy": self.taxonomy.to_json(),
            "network": network.state_dict(), "train_images": torch.from_numpy(self._train_images()),
            "epoch": self.epoch, "phase": self.phase.name, "metrics": self.history[-1] if self.history else {},
        }  # fmt: skip

    def _save_last(self) -> None:
        self._train_loss()  # a network that is lost must not replace the one saved before
        tally = {"images": self.tally.images, "loss": self._losses()}
        resume = {
            **self.learner.state(), "step": self.tally.step,
            "tally": tally, "history": self.history, "best": self.best, "seconds": self._seconds(),
            "computed_with": self.engine.to_json(),
        }  # fmt: skip
        if self.processes.writes:
            checkpoint.save_last(self.folder, {**self._content(judged=False), **resume})
        self.saved = time.monotonic()

    def _seconds(self) -> float:
        return self.earlier + time.monotonic() - self.begun

    def _summary(self) -> Summary:
        images = {"train": len(self.photos.train), "val_a": len(self.photos.val)}
        unreadable = len(self.processes.union(self.photos.unreadable))  # and so the one that writes has written
        checksum = sha256_file(self.folder / "best.pt")
        computed_with = self.engine.to_json()
        return Summary(self.made_from, checksum, self.best or {}, images, unreadable, computed_with, self._seconds())


def _all_fit(store: Store) -> tuple[ImageTable, ImageTable]:
    train, val = store.images("train"), store.images("val_a")
    return train[train.fit], val[val.fit]
