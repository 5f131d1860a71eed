"""The plain network that papers on product photos use as their baseline."""

from itertools import pairwise

from torch import nn


class Vanilla(nn.Sequential):
    """Three 3x3 convolutions of 512, 1,024 and 2,048 filters times `width`, max-pool 3 after each;
    then global average pooling, dropout 0.4, and a linear layer: float32 [B, 3, H, W] -> [B,
    classes], both sides 27 pixels or more."""

    def __init__(self, width: float = 1.0, classes: int = 1000) -> None:
        filters = [3, *(max(1, round(full * width)) for full in (512, 1024, 2048))]
        convolutions = [_convolution(*pair) for pair in pairwise(filters)]
        super().__init__(
            *convolutions,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.4),
            nn.Linear(filters[-1], classes),
        )


def _convolution(before: int, after: int) -> nn.Module:
    layer = nn.Conv2d(before, after, 3, padding=1)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layer, nn.ReLU(inplace=True), nn.MaxPool2d(3))
