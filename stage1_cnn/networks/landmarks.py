"""VGG-16 that looks at landmarks (after Liu, Lu 2018): it draws a heat map of each, makes an
attention map of them all, and strengthens its own features there before it classifies. Without
known landmarks attention learns from the categories alone."""

import torch
from torch import nn
from torch.nn.functional import log_softmax, max_pool2d

from catalog.landmarks import COUNT
from stage1_cnn.networks.vgg import Vgg16, init_vgg, scaled

_SPREAD = 0.02
"""Deviation of the bump that stands for a landmark in its heat map, as a share of the side."""
_FUSED = 23
"""Layers of VGG-16 up to the eighth of the input's size (28 x 28 at 224), where attention meets the
features."""


class LandmarkVgg16(Vgg16):
    """VGG-16 with a landmark branch; `width` as there. torchvision's weights of vgg16 fit all but
    the branch."""

    UNTRAINED = "landmarks."

    def __init__(self, width: float = 1.0, classes: int = 1000) -> None:
        super().__init__(width, classes)
        classifier = self._modules.pop("classifier")
        self.landmarks = LandmarkBranch(scaled(512, width), width)
        self.classifier = classifier  # the last of all, so that a head can take its place

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float32 [B, 3, H, W] -> [B, classes]."""
        features = self.features[:_FUSED](images)
        features = features * (1 + self.landmarks.attention(self.landmarks(features)))
        return self.classifier(torch.flatten(self.avgpool(self.features[_FUSED:](features)), 1))

    def attention_maps(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Heat maps [B, 8, H, W], peak 1, and the attention map [B, 1, H / 8, W / 8], from 0 to 1,
        of some images."""
        maps = self.landmarks(self.features[:_FUSED](images))
        return heat(maps), self.landmarks.attention(maps)


class LandmarkBranch(nn.Module):
    """Features [B, C, h, w] -> scores [B, 8, 8 h, 8 w] of each landmark's place."""

    def __init__(self, channels: int, width: float) -> None:
        super().__init__()
        wide, half, thin = (scaled(filters, width) for filters in (64, 32, 16))
        self.draw = nn.Sequential(
            nn.Conv2d(channels, wide, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(wide, wide, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.ConvTranspose2d(wide, half, 4, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(half, thin, 4, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(thin, COUNT, 1),
        )
        self.squeeze = nn.Conv2d(COUNT, 1, 3, padding=1)
        init_vgg(self)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """The scores; a softmax over all places makes probabilities of them."""
        return self.draw(features)

    def attention(self, maps: torch.Tensor) -> torch.Tensor:
        """Scores -> attention [B, 1, h, w], from 0 to 1, of the features' size."""
        return self.squeeze(max_pool2d(heat(maps), 8)).sigmoid()


class LandmarkLoss:
    """Keeps the branch's scores of the last forward pass, and measures them."""

    def __init__(self, branch: LandmarkBranch, weight: float) -> None:
        self.weight, self.maps = weight, None
        branch.register_forward_hook(self._keep)

    def _keep(self, branch: nn.Module, inputs: tuple, maps: torch.Tensor) -> None:
        self.maps = maps

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        """`landmark_loss` of that pass, times the weight."""
        maps, self.maps = self.maps, None
        return self.weight * landmark_loss(maps, points)


def heat(maps: torch.Tensor) -> torch.Tensor:
    """Scores as likelihoods relative to the likeliest place, which has 1."""
    return (maps - maps.amax((2, 3), keepdim=True)).exp()


def landmark_loss(maps: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Cross-entropy between each visible landmark's bump and the softmax of its scores [B, 8, H, W]
    over all places; mean of the eight (0 for those that are not seen), summed over the images.
    `points` float32 [B, 8, 3] as in catalog.landmarks."""
    (down, across), (x, y, seen) = _grid(maps), points.unbind(2)
    bump = torch.exp(
        -(_square(down, y)[..., None] + _square(across, x)[:, :, None]) / (2 * _SPREAD**2)
    ).flatten(2)
    bump = bump / bump.sum(2, keepdim=True).clamp(min=1e-12)
    return -((bump * log_softmax(maps.float().flatten(2), 2)).sum(2) * (seen > 0)).sum() / COUNT


def landmark_error(maps: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Distances, as shares of the side, between the likeliest places and the visible landmarks,
    float32 [their number]."""
    down, across = _grid(maps)
    best = maps.flatten(2).argmax(2)
    width = maps.shape[3]
    found = torch.stack([across[best % width], down[best // width]], 2)
    return (found - points[..., :2]).norm(dim=2)[points[..., 2] > 0]


def _grid(maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Places of rows and columns, as shares of the sides."""
    return tuple((torch.arange(side, device=maps.device) + 0.5) / side for side in maps.shape[2:])


def _square(grid: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    return (grid - place[..., None]) ** 2
