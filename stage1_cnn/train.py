"""What every phase shares: one optimisation step, its schedule, and evaluation. Knows nothing of files or images."""

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from catalog.errors import ShelfsortError
from stage1_cnn.config import Stage1Config
from stage1_cnn.device import Engine

Pair = tuple[torch.Tensor, torch.Tensor]
"""Inputs of a module and labels int64 [B], both on its device."""


@dataclass(frozen=True)
class Metrics:
    """Cross-entropy, share of first guesses and of first five guesses that are right, over `images` images."""

    loss: float
    top1: float
    top5: float
    images: int


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up over `warmup` steps, then a cosine to 0 at `steps`: the factor of the highest learning rate."""

    steps: int
    warmup: int

    def __call__(self, step: int) -> float:
        """The factor at a step, counted from 0."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.steps - self.warmup)))


class Learner:
    """A module with its loss, optimizer, learning-rate schedule, gradient clipping and loss scaling."""

    def __init__(
        self, module: nn.Module, config: Stage1Config, engine: Engine, *, lr: float, schedule: Schedule
    ) -> None:
        self.module, self.engine, self.schedule, self.steps = module, engine, schedule, 0
        self.clip_norm = config.clip_norm
        self.loss = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(self.parameters, config, lr)
        self.scaler = torch.amp.GradScaler(engine.device.type, enabled=engine.precision == "fp16")

    def step(self, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """One step on a batch; its mean loss, still on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["top_lr"] * self.schedule(self.steps)
        with self.engine.autocast():
            loss = self.loss(self.module(inputs).float(), labels)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.steps += 1
        return loss.detach()

    @property
    def lr(self) -> float:
        """Learning rate of the last step."""
        return self.optimizer.param_groups[0]["lr"]

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs to go on from here."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": {"step": self.steps},
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of state."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.steps = state["scheduler"]["step"]


@dataclass
class Tally:
    """How far an epoch is: batches and images done, and the sum of their losses (on the device until it is read)."""

    step: int = 0
    images: int = 0
    loss: float | torch.Tensor = 0.0


def train_steps(learner: Learner, pairs: Iterator[Pair], tally: Tally) -> Iterator[int]:
    """A step a batch; yields its images once `tally` counts it. A single image is passed over: batch norm needs two."""
    learner.module.train()
    with contextlib.closing(pairs):
        for inputs, labels in pairs:
            if len(labels) > 1:
                tally.loss = tally.loss + learner.step(inputs, labels).double() * len(labels)
                tally.images += len(labels)
            tally.step += 1
            yield len(labels)


def make_optimizer(parameters: Iterable[nn.Parameter], config: Stage1Config, lr: float) -> torch.optim.Optimizer:
    """AdamW or SGD; vectors (biases, normalisation layers) are in a group without weight decay."""
    decayed, plain = [], []
    for parameter in parameters:
        (decayed if parameter.ndim > 1 else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    groups = [{**group, "top_lr": lr} for group in groups if group["params"]]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, lr=lr, fused=True)


def evaluate(module: nn.Module, pairs: Iterable[Pair], engine: Engine) -> Metrics | None:
    """Loss without smoothing, top-1 and top-5 in evaluation mode; None where there are no images."""
    module.eval()
    sums, images = torch.zeros(3, dtype=torch.float64, device=engine.device), 0
    with torch.inference_mode():
        for inputs, labels in pairs:
            with engine.autocast():
                logits = module(inputs).float()
            hits = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
            loss = cross_entropy(logits, labels, reduction="sum")
            sums += torch.stack([loss, hits[:, 0].sum(), hits.sum()]).double()
            images += len(labels)
    if not images:
        return None
    loss, top1, top5 = (sums / images).tolist()
    return Metrics(require_finite(loss, "validation"), top1, top5, images)


def require_finite(loss: float, place: str) -> float:
    """The loss itself. Raises ShelfsortError where it is not a number, since nothing after that can be right."""
    if not math.isfinite(loss):
        advice = "lower stage1.lr and stage1.head_lr, or set stage1.precision=fp32"
        raise ShelfsortError(f"stage 1: the loss became {loss} ({place}), expected a number; {advice}")
    return loss
