"""Stage 1's training: the head over the frozen backbone first, then the whole network; resumes where it was stopped.

In: the store's `train` and `val_a` images that may be fitted. On disk, in the run's folder stage1/: last.pt, best.pt,
head.pt, metrics.jsonl, tensorboard/, and at the very end summary.json. Every random draw follows from (seed, phase,
epoch, image), and last.pt holds the rest, so that a run that was killed ends with the weights of one that was not.
"""

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from catalog.artifacts import read_json, require_same, sha256_file, write_json
from catalog.errors import ShelfsortError
from catalog.progress import progress
from catalog.store import Store
from stage1_cnn import checkpoint
from stage1_cnn.backbones import Network, build, check_size
from stage1_cnn.config import Stage1Config
from stage1_cnn.device import choose_engine
from stage1_cnn.interrupt import Interrupt
from stage1_cnn.journal import Journal
from stage1_cnn.sources import CachedFeatures, Photos
from stage1_cnn.train import Learner, Metrics, Pair, Schedule, Tally, evaluate, require_finite, train_steps

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Phase:
    """One phase: its name, its number (part of every seed), epochs and highest learning rate."""

    name: str
    number: int
    epochs: int
    lr: float


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


def phases_of(config: Stage1Config) -> list[Phase]:
    """The phases that a configuration asks for; random weights have no use for a frozen backbone."""
    phases = [Phase("head", 0, config.head_epochs, config.head_lr), Phase("finetune", 1, config.epochs, config.lr)]
    return [phase for phase in phases if phase.epochs and not (phase.name == "head" and config.weights == "none")]


def train_stage1(store: Store, config: Stage1Config, folder: Path, made_from: dict[str, Any]) -> Summary:
    """Trains, or goes on training, into `folder` (RUN/stage1); returns at once where it is complete.

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
        summary = Trainer(store, config, folder, made_from, interrupt).run()
    write_json(path, asdict(summary))
    return summary


class Trainer:
    """The state of one training: network, phase, epochs done, metrics so far; and the folder that keeps all of it."""

    def __init__(
        self, store: Store, config: Stage1Config, folder: Path, made_from: dict[str, Any], interrupt: Interrupt
    ) -> None:
        self.config, self.folder, self.made_from, self.interrupt = config, folder, made_from, interrupt
        self.engine = choose_engine(config.device, config.precision)
        self.taxonomy = store.taxonomy
        train, val = store.images("train"), store.images("val_a")
        self.photos = Photos(store, train[train.fit], val[val.fit], config, self.engine)
        if len(self.photos) < 2:
            raise ShelfsortError(f"{store.path}: {len(self.photos)} images to train on, expected at least 2")
        self.resumed = self._read_last()
        self.network = self._make_network()
        self.best: dict[str, Any] | None = self.resumed.get("best")
        self.history: list[dict[str, Any]] = self.resumed.get("history", [])
        self.earlier: float = self.resumed.get("seconds", 0.0)
        self.begun = self.saved = time.monotonic()

    def _read_last(self) -> dict[str, Any]:
        """The content of last.pt, empty where there is none."""
        path = self.folder / "last.pt"
        if not path.exists():
            return {}
        content = checkpoint.load(path, resume=True)
        require_same(path, self.made_from, content["made_from"], checkpoint.rebuild_command(path))
        _log.info("%s: going on after %s epoch %d, step %d", path, content["phase"], content["epoch"], content["step"])
        return content

    def _make_network(self) -> Network:
        config = self.config
        weights = "none" if self.resumed else config.weights
        network = build(config.backbone, len(self.taxonomy), weights=weights, seed=config.seed)
        if self.resumed:
            network.load_state_dict(self.resumed["network"])
        if config.weights != "none":
            network.freeze_norm(config.batch_norm)
        network.to(self.engine.device, memory_format=torch.channels_last)
        check_size(network, config.backbone, config.size)
        return network

    def run(self) -> Summary:
        """All phases, or what is left of them."""
        if self.config.weights == "none":
            _log.warning("stage1.weights is none: no head phase, as a random backbone has no features to keep")
        if not len(self.photos.val):
            _log.warning("val_a has no images: the last epoch is kept as the best")
        self.journal = Journal(self.folder, self.history)
        with contextlib.closing(self.journal):
            for phase in phases_of(self.config):
                if (done := sum(line["phase"] == phase.name for line in self.history)) < phase.epochs:
                    self._run_phase(phase, done)
        return self._summary()

    def _run_phase(self, phase: Phase, done: int) -> None:
        frozen = phase.name == "head"
        self.network.freeze(frozen)
        photos, network = self.photos, self.network
        self.phase, self.epoch = phase, done
        self.source = CachedFeatures(photos, network, self.folder, self.interrupt.check) if frozen else photos
        schedule = Schedule(phase.epochs * self.source.steps, round(self.config.warmup * self.source.steps))
        module = network.head if frozen else network
        self.learner = Learner(module, self.config, self.source.engine, lr=phase.lr, schedule=schedule)
        if self.resumed.get("phase") == phase.name:
            self.learner.restore(self.resumed)
        while self.epoch < phase.epochs:
            with self.engine.fork_generators():
                self._run_epoch()

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
        self.journal.add(line)
        self.epoch, self.tally = self.epoch + 1, Tally()
        if val is None or self.best is None or val.top1 > self.best["val_top1"]:
            self.best = line
            checkpoint.save(self.folder / "best.pt", self._content())
        if self.phase.name == "head" and self.epoch == self.phase.epochs:
            checkpoint.save(self.folder / "head.pt", self._content())
        self._save_last()
        self.interrupt.check()

    def _start_epoch(self) -> Tally:
        """Seeds the generators for this epoch, or puts them where a stopped one left them."""
        content, self.resumed = self.resumed, {}  # of use once, and as large as the network
        if content.get("phase") == self.phase.name and content["step"]:
            self.engine.restore_generators(content["generators"])
            return Tally(content["step"], **content["tally"])
        self.engine.seed(int(self._seeds().integers(2**63)))
        return Tally()

    def _seeds(self) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, self.phase.number, self.epoch + 1])

    def _train(self) -> None:
        """The epoch's steps, or those that are left of it."""
        batch, steps = self.config.batch_size, self.source.steps
        order = self._seeds().permutation(len(self.source))[: steps * batch]
        pairs = self.source.training(order[self.tally.step * batch :], self.epoch + 1)
        title = f"{self.phase.name} {self.epoch + 1}/{self.phase.epochs}"
        with (
            progress(len(order), title, "img", initial=self.tally.step * batch) as bar,
            contextlib.closing(train_steps(self.learner, pairs, self.tally)) as done,
        ):
            for images in done:
                bar.update(images)
                self._pause()
                if time.monotonic() - self.saved >= 60 * self.config.save_minutes:
                    self._save_last()

    def _validate(self) -> Metrics | None:
        def watched() -> Iterator[Pair]:
            for pair in self.source.validation():
                yield pair
                self._pause()

        return evaluate(self.learner.module, watched(), self.source.engine)

    def _pause(self) -> None:
        """Saves last.pt and raises KeyboardInterrupt where the user asked to stop."""
        if self.interrupt.requested:
            self._save_last()
        self.interrupt.check()

    def _train_loss(self) -> float:
        place = f"{self.phase.name} epoch {self.epoch + 1}"
        return require_finite(float(self.tally.loss) / max(1, self.tally.images), place)

    def _content(self) -> dict[str, Any]:
        """What every checkpoint holds: the network after `epoch` epochs of `phase`, and all it needs to score alone."""
        counts = np.bincount(self.photos.train.class_index, minlength=len(self.taxonomy))
        return {
            "made_from": self.made_from, "config": self.config.model_dump(mode="json"),
            "transform": self.photos.transform.to_json(), "taxonomy": self.taxonomy.to_json(),
            "network": self.network.state_dict(), "train_images": torch.from_numpy(counts),
            "epoch": self.epoch, "phase": self.phase.name, "metrics": self.history[-1] if self.history else {},
        }  # fmt: skip

    def _save_last(self) -> None:
        self._train_loss()  # a network that is lost must not replace the one saved before
        tally = {"images": self.tally.images, "loss": float(self.tally.loss)}
        resume = {
            **self.learner.state(), "generators": self.engine.generator_states(), "step": self.tally.step,
            "tally": tally, "history": self.history, "best": self.best, "seconds": self._seconds(),
        }  # fmt: skip
        checkpoint.save(self.folder / "last.pt", {**self._content(), **resume})
        self.saved = time.monotonic()

    def _seconds(self) -> float:
        return self.earlier + time.monotonic() - self.begun

    def _summary(self) -> Summary:
        images = {"train": len(self.photos.train), "val_a": len(self.photos.val)}
        checksum, unreadable = sha256_file(self.folder / "best.pt"), len(self.photos.unreadable)
        computed_with = self.engine.to_json()
        return Summary(self.made_from, checksum, self.best or {}, images, unreadable, computed_with, self._seconds())
