"""The checkpoints that a training writes: which ones, when, and what they hold.

On disk, in the run's folder stage1/: last.pt and before.pt to resume from, best.pt, head.pt, and
with `keep_epochs` one per epoch. All processes call these functions; the main one writes.
"""

import time
from typing import Any

import torch
from torch import nn

from stage1_cnn import checkpoint
from stage1_cnn.training.epoch import ActivePhase, Epoch, History
from stage1_cnn.training.plan import Phase
from stage1_cnn.training.setup import Setup


class Saver:
    """Writes the checkpoints of one training."""

    def __init__(self, setup: Setup, history: History) -> None:
        self.setup, self.history = setup, history
        self._saved = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the main process last wrote last.pt `save_minutes` ago or longer."""
        waited = time.monotonic() - self._saved
        return self.setup.processes.is_main and waited >= 60 * self.setup.config.save_minutes

    def save_resumable(self, epoch: Epoch) -> None:
        """Writes last.pt, from which a training goes on within `epoch`. Raises ShelfsortError if
        the loss is not finite: a network that diverged must not replace the one saved before."""
        loss = epoch.loss_sum()
        if self.setup.processes.is_main:
            resume = {
                **epoch.active.learner.state(),
                "step": epoch.tally.step,
                "tally": {"images": epoch.tally.images, "loss": loss},
                "history": self.history.lines,
                "best": self.history.best,
                "seconds": self.history.seconds,
                "computed_with": self.setup.compute.to_json(),
            }
            content = self._content(epoch.active.phase, self.setup.network)
            checkpoint.save_last(self.setup.folder, {**content, **resume})
        self._saved = time.monotonic()

    def save_epoch(self, active: ActivePhase) -> None:
        """Writes the checkpoints of an epoch that ended, all but last.pt."""
        if not self.setup.processes.is_main:
            return
        phase, config = active.phase, self.setup.config
        names = []
        if self.history.last_is_best:
            names.append("best.pt")
        if config.keep_epochs:
            names.append(f"{phase.name}-{self.history.epochs_done(phase):02d}.pt")
        if phase.name == "head" and self.history.finished(phase, config.patience):
            names.append("head.pt")
        for name in names:
            content = self._content(phase, self._validated(active))
            checkpoint.save(self.setup.folder / name, content)

    def _validated(self, active: ActivePhase) -> nn.Module:
        """The whole network, with the average of its weights if that is what is validated."""
        learner, network = active.learner, self.setup.network
        return learner.validated if learner.module is network else network

    def _content(self, phase: Phase, network: nn.Module) -> dict[str, Any]:
        """What every checkpoint holds: the network after the last whole epoch or later, and all it
        needs to score alone."""
        setup, lines = self.setup, self.history.lines
        return {
            "made_from": setup.made_from,
            "config": setup.config.model_dump(mode="json"),
            "transform": setup.photos.transform.state(),
            "taxonomy": setup.taxonomy.to_json(),
            "network": network.state_dict(),
            "train_images": torch.from_numpy(setup.train_images()),
            "epoch": self.history.epochs_done(phase),
            "phase": phase.name,
            "metrics": lines[-1] if lines else {},
        }
