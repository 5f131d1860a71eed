"""What all phases share: the optimisation step, its schedule, and evaluation. Knows no files and no
images."""

import contextlib
import math
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from catalog.errors import ConfigError, ShelfsortError
from stage1_cnn.config import Stage1Config
from stage1_cnn.device import Compute
from stage1_cnn.networks.landmarks import LandmarkLoss
from stage1_cnn.training.ema import Ema

Pair = tuple[torch.Tensor, ...]
"""Inputs of a module, labels int64 [B] or mixed targets float32 [B, K], and optionally landmarks
float32 [B, 8, 3]; on its device."""
Mix = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Metrics:
    """Mean cross-entropy, top-1 and top-5 accuracy over `images` images."""

    loss: float
    top1: float
    top5: float
    images: int


@dataclass(frozen=True)
class Schedule:
    """Factor of the highest learning rate: linear warm-up over `warmup` steps, then a cosine to 0
    at `steps`, or no change if `constant`."""

    steps: int
    warmup: int
    constant: bool = False

    def __call__(self, step: int) -> float:
        """The factor at a step, counted from 0."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        if self.constant:
            return 1.0
        return 0.5 * (
            1 + math.cos(math.pi * (step - self.warmup) / max(1, self.steps - self.warmup))
        )


class Learner:
    """A module with its loss, optimizer, learning-rate schedule, gradient clipping, loss scaling,
    and average of weights."""

    def __init__(
        self,
        module: nn.Module,
        config: Stage1Config,
        compute: Compute,
        *,
        lr: float,
        schedule: Schedule,
        depths: Mapping[nn.Parameter, int] | None = None,
        shares: torch.Tensor | None = None,
        average: bool = False,
    ) -> None:
        """`depths` as from `blocks.depths` (by default one learning rate for all); `shares` float32
        [K], the categories' shares of the training photos, for the logit adjustment; `average`
        keeps a moving average if the configuration asks for one."""
        self.module, self.compute, self.schedule, self.steps = module, compute, schedule, 0
        self.clip_norm, self.smoothing = config.clip_norm or math.inf, config.label_smoothing
        self.offset = None
        if config.logit_adjustment and shares is not None:
            # 0 for a category without photos, whose raw score label smoothing would raise.
            logs = torch.where(shares > 0, shares.clamp(min=1e-12).log(), 0)
            self.offset = config.logit_adjustment * logs.to(compute.device)
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(self.parameters, config, lr, depths or {})
        self.scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.precision == "fp16")
        self.ema = Ema(module, config.ema_decay) if average and config.ema_decay else None
        self.landmark_loss = None
        branch = getattr(getattr(module, "backbone", None), "landmarks", None)
        if config.landmarks and branch is not None:
            self.landmark_loss = LandmarkLoss(branch, config.landmark_weight)
        self.forward: Callable[[torch.Tensor], torch.Tensor] = module
        self.shared: DistributedDataParallel | None = None

    def distribute(self, compiled: str) -> None:
        """Makes later steps go through DistributedDataParallel if there are several processes, and
        through torch.compile as `Stage1Config.compile` says."""
        if self.compute.processes.size > 1:
            own = [self.compute.device] if self.compute.device.type == "cuda" else None
            self.forward = self.shared = DistributedDataParallel(
                self.module, device_ids=own, gradient_as_bucket_view=True
            )
        if compiled == "graphs" and self.compute.device.type != "cuda":
            raise ConfigError(
                f"stage1.compile: CUDA graphs need a GPU, found {self.compute.device.type}; "
                "expected none or plain"
            )
        if compiled != "none":
            mode = "reduce-overhead" if compiled == "graphs" else "default"
            self.forward = torch.compile(self.forward, mode=mode)

    @property
    def validated(self) -> nn.Module:
        """What is validated and saved: the average if there is one."""
        return self.ema.module if self.ema else self.module

    def step(self, parts: Sequence[Pair], images: int | None = None) -> torch.Tensor:
        """Takes one step on the parts of a batch that has `images` in all processes; returns the
        sum of this process's losses, on the device."""
        images = sum(len(labels) for _, labels, *_ in parts) if images is None else images
        for group in self.optimizer.param_groups:
            group["lr"] = group["top_lr"] * self.schedule(self.steps)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), dtype=torch.float64, device=self.compute.device)
        for number, pair in enumerate(parts, 1):
            with self._synchronised(number == len(parts)):
                loss = self._loss(*pair)
                # DistributedDataParallel averages over processes; here it is over images.
                self.scaler.scale(loss * (self.compute.processes.size / images)).backward()
            total += loss.detach()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.steps += 1
        if self.ema:
            self.ema.update(self.module)
        return total

    def _loss(
        self, inputs: torch.Tensor, labels: torch.Tensor, points: torch.Tensor | None = None
    ) -> torch.Tensor:
        with self.compute.autocast():
            logits = self.forward(inputs).float()
        logits = logits if self.offset is None else logits + self.offset
        loss = cross_entropy(logits, labels, reduction="sum", label_smoothing=self.smoothing)
        if self.landmark_loss is None or points is None:
            return loss
        return loss + self.landmark_loss(points)

    def _synchronised(self, last: bool) -> contextlib.AbstractContextManager:
        """Gradients are exchanged once per step, with the last part."""
        return self.shared.no_sync() if self.shared and not last else contextlib.nullcontext()

    @property
    def lr(self) -> float:
        """Learning rate of the last step; the head's if blocks have their own."""
        return max(group["lr"] for group in self.optimizer.param_groups)

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs to resume from here."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": {"step": self.steps},
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.state() if self.ema else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of state."""
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # empty if the training began in another precision
            self.scaler.load_state_dict(state["scaler"])
        self.steps = state["scheduler"]["step"]
        if self.ema:
            self.ema.restore(state["ema"])


@dataclass
class Tally:
    """How far an epoch is: steps and images done by all processes, and the sum of this process's
    losses (on the device until it is read)."""

    step: int = 0
    images: int = 0
    loss: float | torch.Tensor = 0.0


def train_steps(
    learner: Learner,
    pairs: Generator[Pair, None, None],
    tally: Tally,
    *,
    parts: int = 1,
    prepare: Callable[[], Mix] = lambda: _unmixed,
) -> Generator[int, None, None]:
    """Takes one step per batch of `parts` pairs; yields its number of images once counted.

    `prepare` is called before each step and returns what mixes the photos of its parts. All
    processes skip a step of fewer than two images; while batch norm trains, also one with a part of
    fewer than two.
    """
    learner.module.train()
    norm = any(
        isinstance(module, _BatchNorm) and module.training for module in learner.module.modules()
    )
    with contextlib.closing(pairs):
        while batch := list(islice(pairs, parts)):
            sizes = [len(labels) for _, labels, *_ in batch]
            images, short = learner.compute.processes.total([sum(sizes), norm and min(sizes) < 2])
            mix = prepare()
            if images > 1 and not short:
                tally.loss = tally.loss + learner.step(
                    [(*mix(*pair[:2]), *pair[2:]) for pair in batch], int(images)
                )
                tally.images += int(images)
            tally.step += 1
            yield int(images)


def _unmixed(inputs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return inputs, labels


def make_optimizer(
    parameters: Iterable[nn.Parameter],
    config: Stage1Config,
    lr: float,
    depths: Mapping[nn.Parameter, int],
) -> torch.optim.Optimizer:
    """AdamW or SGD; vectors (biases, normalisation layers) get no weight decay, and blocks farther
    from the head a lower learning rate."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
    for parameter in parameters:
        groups[config.layer_decay ** depths.get(parameter, 0), parameter.ndim > 1].append(parameter)
    options = [
        {
            "params": groups[scale, decayed],
            "weight_decay": config.weight_decay * decayed,
            "top_lr": lr * scale,
        }
        for scale, decayed in sorted(groups, reverse=True)
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(options, lr=lr, momentum=0.9, nesterov=True, fused=True)
    return torch.optim.AdamW(options, lr=lr, fused=True)


def evaluate(module: nn.Module, pairs: Iterable[Pair], compute: Compute) -> Metrics | None:
    """Loss without smoothing, top-1 and top-5 in evaluation mode, over the pairs of all processes;
    None if there are none."""
    module.eval()
    sums = torch.zeros(4, dtype=torch.float64, device=compute.device)
    with torch.inference_mode():
        for inputs, labels, *_ in pairs:
            with compute.autocast():
                logits = module(inputs).float()
            hits = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
            loss = cross_entropy(logits, labels, reduction="sum")
            count = hits.new_tensor(len(labels), dtype=torch.int64)
            sums += torch.stack([loss, hits[:, 0].sum(), hits.sum(), count]).double()
    images = int(compute.processes.reduce(sums)[3])
    if not images:
        return None
    loss, top1, top5 = (sums[:3] / images).tolist()
    return Metrics(require_finite(loss, "validation"), top1, top5, images)


def require_finite(loss: float, context: str) -> float:
    """Returns the loss. Raises ShelfsortError if it is not finite, as nothing after that can be
    right."""
    if not math.isfinite(loss):
        advice = "lower stage1.lr and stage1.head_lr, or set stage1.precision=fp32"
        raise ShelfsortError(
            f"stage 1: the loss became {loss} ({context}), expected a number; {advice}"
        )
    return loss
