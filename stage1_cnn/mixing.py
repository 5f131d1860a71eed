"""Mixup (Zhang et al. 2017) and CutMix (Yun et al. 2019): blends photos of a batch in pairs, on
the device."""

import torch
from torchvision.transforms.v2 import CutMix, MixUp

from stage1_cnn.config import Augment


class Mixing:
    """Draws one of the two for each batch, from the processor's default generator."""

    def __init__(self, augment: Augment, classes: int) -> None:
        mixings = ((MixUp, augment.mixup), (CutMix, augment.cutmix))
        self.choices = [
            mixing(alpha=alpha, num_classes=classes) for mixing, alpha in mixings if alpha
        ]

    def __call__(
        self, inputs: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and labels int64 [B] -> inputs and targets float32 [B, K]; both unchanged if
        neither is on."""
        if not self.choices or not len(labels):
            return inputs, labels
        return self.choices[int(torch.randint(len(self.choices), ()))](inputs, labels)
