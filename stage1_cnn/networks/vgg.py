"""VGG-16 (Simonyan, Zisserman 2015) as torchvision has it, optionally with fewer filters."""

import torch
from torch import nn
from torch.nn.utils import skip_init
from torchvision.models.vgg import make_layers

_LAYERS = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")


class Vgg16(nn.Module):
    """VGG-16 with filters and hidden units times `width`; torchvision's weights fit width 1."""

    def __init__(self, width: float = 1.0, classes: int = 1000) -> None:
        super().__init__()
        last, hidden = scaled(512, width), scaled(4096, width)
        self.features = make_layers(
            [layer if isinstance(layer, str) else scaled(layer, width) for layer in _LAYERS]
        )
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            skip_init(nn.Linear, last * 7 * 7, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            skip_init(nn.Linear, hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            skip_init(nn.Linear, hidden, classes),
        )
        init_vgg(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float32 [B, 3, H, W] -> [B, classes]; both sides 32 pixels or more."""
        return self.classifier(torch.flatten(self.avgpool(self.features(images)), 1))


def scaled(filters: int, width: float) -> int:
    """A number of filters times `width`, at least 1."""
    return max(1, round(filters * width))


def init_vgg(network: nn.Module) -> None:
    """Kaiming's initialisation for convolutions and small weights for linear layers, as in
    torchvision's VGG."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)
