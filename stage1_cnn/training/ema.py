"""An exponential moving average of a network's weights: often better than the weights themselves,
and validated in their place."""

import copy
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Ema:
    """`module`, in evaluation mode, holds the average. Early steps count for more (decay at most
    (1 + n) / (10 + n)), so that the average is useful in short trainings too."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Includes the weights after one more step; integers (batch norm's counter) are copied."""
        self.steps += 1
        pairs = list(
            zip(self.module.state_dict().values(), module.state_dict().values(), strict=True)
        )
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        average_all = get_ema_multi_avg_fn(min(self.decay, (1 + self.steps) / (10 + self.steps)))
        average_all(*map(list, zip(*floats, strict=True)), None)
        for average, value in pairs:
            if not average.is_floating_point():
                average.copy_(value)

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs to resume from here."""
        return {"steps": self.steps, "network": self.module.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of state."""
        self.steps = state["steps"]
        self.module.load_state_dict(state["network"])
