"""VGG-16 (Simonyan, Zisserman 2015) as torchvision has it, with fewer filters where asked."""

from torch import nn
from torchvision.models.vgg import VGG, make_layers

_LAYERS = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")


class Vgg16(VGG):
    """All filters and hidden units times `width`; 1 is torchvision's vgg16, whose weights fit."""

    def __init__(self, width: float = 1.0, classes: int = 1000) -> None:
        layers = [layer if layer == "M" else scaled(layer, width) for layer in _LAYERS]
        super().__init__(make_layers(layers), num_classes=classes, init_weights=False)
        last, hidden = scaled(512, width), scaled(4096, width)
        if width != 1:
            self.classifier[0] = nn.Linear(last * 7 * 7, hidden)
            self.classifier[3] = nn.Linear(hidden, hidden)
            self.classifier[6] = nn.Linear(hidden, classes)
        init_vgg(self)


def scaled(filters: int, width: float) -> int:
    """A number of filters times `width`, 1 at least."""
    return max(1, round(filters * width))


def init_vgg(network: nn.Module) -> None:
    """Kaiming's start for convolutions, and small weights for linear layers, as torchvision's VGG has them."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)
