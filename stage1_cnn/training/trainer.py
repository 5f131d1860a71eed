"""Stage 1's training: first the head over the frozen backbone, then the whole network; resumes
where it was stopped.

In: the `train` and `val_a` images of the store that may be fitted. On disk, in the run's folder
stage1/: last.pt, before.pt, best.pt, head.pt (`saver`), metrics.jsonl, tensorboard/ (`journal`),
and at the very end summary.json. Every random draw follows from the seed, the phase, the epoch, and
the step or the image; last.pt holds the rest, so that a run that was killed ends with the weights
of one that was not. All processes train and the main one writes.
"""

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from catalog.artifacts import read_json, require_same, sha256_file, write_json
from catalog.progress import progress
from stage1_cnn import checkpoint
from stage1_cnn.config import Augment
from stage1_cnn.mixing import Mixing
from stage1_cnn.networks.blocks import depths
from stage1_cnn.training.epoch import ActivePhase, Epoch, History
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
    train_steps,
)
from stage1_cnn.training.plan import Phase, parts_of, phases_of
from stage1_cnn.training.saver import Saver
from stage1_cnn.training.setup import Resumed, Setup, TrainingJob, prepare_training

_log = logging.getLogger(__name__)


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


def train_stage1(job: TrainingJob) -> Summary:
    """Trains, or goes on training; returns at once if the folder holds the whole training.

        train_stage1(TrainingJob(store, config, folder, made_from))

    Raises ArtifactError if the folder holds a training made from something else, ConfigError on
    what the machine or the network can't do, and KeyboardInterrupt after SIGINT, with last.pt
    saved: the same call goes on from there.
    """
    path = job.folder / "summary.json"
    if path.exists() and (job.folder / "best.pt").exists():
        summary = Summary(**read_json(path, "stage1"))
        require_same(path, job.made_from, summary.made_from, "stage1")
        return summary
    with Interrupt() as interrupt:
        setup, resumed = prepare_training(job)
        trainer = Trainer(setup, resumed, interrupt)
        del resumed  # as large as the network; the trainer frees it with its first phase
        with setup.compute.determinism(job.config.deterministic):
            summary = trainer.run()
    if job.processes.is_main:
        write_json(path, asdict(summary))
        (job.folder / checkpoint.BEFORE).unlink(missing_ok=True)
    return summary


class Trainer:
    """One training, from where it begins or goes on.

    Trainer(*prepare_training(job), interrupt).run()
    """

    def __init__(self, setup: Setup, resumed: Resumed, interrupt: Interrupt) -> None:
        self.setup, self.interrupt = setup, interrupt
        self.history = History(resumed)
        self.saver = Saver(setup, self.history)
        self._resumed = resumed

    def run(self) -> Summary:
        """Runs all phases, or what is left of them."""
        setup, config = self.setup, self.setup.config
        if config.weights == "none":
            reason = "a random backbone has no features to keep"
            _log.warning("stage1.weights is none: no head phase, as %s", reason)
        if not len(setup.photos.val):
            _log.warning("val_a has no images: the last epoch is kept as the best")
        journal = Journal(setup.folder, self.history.lines) if setup.processes.is_main else None
        with contextlib.closing(journal) if journal else contextlib.nullcontext():
            for phase in phases_of(config):
                self._run_phase(phase, journal)
        return self._summary()

    def _run_phase(self, phase: Phase, journal: Journal | None) -> None:
        """Runs what is left of a phase."""
        patience = self.setup.config.patience
        if self.history.finished(phase, patience):
            return
        active, tally = self._start_phase(phase)
        while not self.history.finished(phase, patience):
            epoch = Epoch(active, self.history.epochs_done(phase) + 1, tally)
            with self.setup.compute.fork_generators():
                self._run_epoch(epoch, journal)
            tally = Tally()

    def _start_phase(self, phase: Phase) -> tuple[ActivePhase, Tally]:
        """A phase, and how far its first epoch is."""
        setup, network = self.setup, self.setup.network
        config, classes = setup.config, len(setup.taxonomy)
        source: PhotoInputs | CachedFeatures
        module: nn.Module
        if phase.name == "head":
            network.freeze(0)
            source = CachedFeatures(setup.photos, network, setup.folder, self.interrupt.check)
            module, mixing = network.head, Mixing(Augment(), classes)
        else:
            network.freeze(config.trainable_blocks)
            source = setup.photos
            module, mixing = network, Mixing(config.augment, classes)
        learner = make_learner(setup, phase, module, source)
        tally = Tally()
        resumed, self._resumed = self._resumed, {}  # needed once
        if resumed.get("phase") == phase.name:
            learner.restore(resumed)
            if resumed["step"]:
                tally = Tally(resumed["step"], **resumed["tally"])
                tally.loss = tally.loss if setup.processes.is_main else 0.0
        learner.distribute(config.compile if module is network else "none")
        return ActivePhase(phase, source, learner, mixing), tally

    def _run_epoch(self, epoch: Epoch, journal: Journal | None) -> None:
        """Steps, validation, journal, checkpoints; last.pt comes last, so that a kill before it
        repeats the rest."""
        active, tally = epoch.active, epoch.tally
        started, images_before = time.monotonic(), tally.images
        self._train(epoch)
        rate = (tally.images - images_before) / (time.monotonic() - started)
        val = self._validate(epoch)
        line = {
            "phase": active.phase.name,
            "epoch": epoch.number,
            "train_loss": epoch.loss_sum() / max(1, tally.images),
            "val_loss": val and val.loss,
            "val_top1": val and val.top1,
            "val_top5": val and val.top5,
            "lr": active.learner.lr,
            "images_per_second": rate,
            "seconds": time.monotonic() - started,
        }
        if journal:
            journal.add(line)
        self.history.add(line)
        self.saver.save_epoch(active)
        self.saver.save_resumable(Epoch(active, epoch.number + 1, Tally()))
        if self.setup.processes.total([self.interrupt.requested])[0]:  # in any process
            raise KeyboardInterrupt

    def _train(self, epoch: Epoch) -> None:
        """Takes the steps that are left of an epoch."""
        setup, config, active = self.setup, self.setup.config, epoch.active
        batch, accumulate = config.batch_size, config.accumulate
        done = epoch.tally.step * batch
        order = active.source.sampler.order(epoch.generator(config.seed))
        order = order[: active.source.steps * batch]
        parts = parts_of(order[done:], batch, accumulate, setup.processes)
        pairs = active.source.training(parts, epoch.number)

        def prepare() -> Mixing:
            """Seeds the generators, so that dropout and mixing follow from the step's number
            alone."""
            generator = epoch.generator(config.seed, epoch.tally.step, setup.processes.rank)
            setup.compute.seed(int(generator.integers(2**63)))
            return active.mixing

        steps = train_steps(active.learner, pairs, epoch.tally, parts=accumulate, prepare=prepare)
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
        stop, save = self.setup.processes.total([self.interrupt.requested, self.saver.due])
        if stop or save:
            self.saver.save_resumable(epoch)
        if stop:
            raise KeyboardInterrupt

    def _validate(self, epoch: Epoch) -> Metrics | None:
        source, learner = epoch.active.source, epoch.active.learner

        def watched() -> Iterator[Pair]:
            for pair in source.validation():
                yield pair
                if self.setup.processes.size == 1 and self.interrupt.requested:
                    self.saver.save_resumable(epoch)
                    raise KeyboardInterrupt

        return evaluate(learner.validated, watched(), source.compute)

    def _summary(self) -> Summary:
        # Waits for all processes, and so until the main one has written best.pt.
        setup = self.setup
        unreadable = setup.processes.union(setup.photos.unreadable)
        return Summary(
            made_from=setup.made_from,
            checkpoint=sha256_file(setup.folder / "best.pt"),
            best=self.history.best or {},
            images={"train": len(setup.photos.train), "val_a": len(setup.photos.val)},
            unreadable=len(unreadable),
            computed_with=setup.compute.to_json(),
            seconds=self.history.seconds,
        )


def make_learner(
    setup: Setup, phase: Phase, module: nn.Module, source: PhotoInputs | CachedFeatures
) -> Learner:
    """What trains the head or the whole network in a phase, from its first step."""
    config, steps = setup.config, source.steps
    warmup, constant = round(config.warmup * steps), config.schedule == "constant"
    counts = torch.from_numpy(setup.train_images()).float()
    return Learner(
        module,
        config,
        source.compute,
        lr=phase.lr,
        schedule=Schedule(phase.epochs * steps, warmup, constant),
        depths=depths(setup.network.backbone),
        shares=counts / counts.sum(),
        average=module is setup.network,
    )
