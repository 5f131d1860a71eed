"""VGG-16 with attention to landmarks (after Liu, Lu 2018): it predicts a heat map of each, combines
them into an attention map, and amplifies its own features there before it classifies. Without known
landmarks, attention learns from the categories alone."""

import torch
from torch import nn
from torch.nn.functional import log_softmax, max_pool2d

from catalog.landmarks import COUNT
from stage1_cnn.networks.vgg import Vgg16, init_vgg, scaled

_SPREAD = 0.02
"""Standard deviation of a landmark's Gaussian in its heat map, as a share of the side."""
_FUSED = 23
"""Layers of VGG-16 up to the eighth of the input's size (28 x 28 at 224), where attention meets the
features."""


class LandmarkVgg16(Vgg16):
    """VGG-16 with a landmark branch; `width` as there. torchvision's weights of vgg16 fit all but
    the branch."""

    UNTRAINED = "landmarks."

    def __init__(self, width: float = 1.0, classes: int = 1000) -> None:
        super().__init__(width, classes)
        classifier = self.classifier
        del self.classifier
        self.landmarks = LandmarkBranch(scaled(512, width), width)
        self.classifier = classifier  # again, as the last module, which a head replaces

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float32 [B, 3, H, W] -> [B, classes]."""
        features = self.features[:_FUSED](images)
        features = features * (1 + self.landmarks.attention(self.landmarks(features)))
        return self.classifier(torch.flatten(self.avgpool(self.features[_FUSED:](features)), 1))

    def attention_maps(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Heat maps [B, 8, H, W], peak 1, and attention maps [B, 1, H / 8, W / 8], from 0 to 1, of
        images float32 [B, 3, H, W]."""
        maps = self.landmarks(self.features[:_FUSED](images))
        return heat(maps), self.landmarks.attention(maps)


class LandmarkBranch(nn.Module):
    """Features [B, C, h, w] -> scores [B, 8, 8 h, 8 w] of each landmark's position."""

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
        """The scores; a softmax over all positions turns them into probabilities."""
        return self.draw(features)

    def attention(self, maps: torch.Tensor) -> torch.Tensor:
        """Scores -> attention [B, 1, h, w], from 0 to 1, of the features' size."""
        return self.squeeze(max_pool2d(heat(maps), 8)).sigmoid()


class LandmarkLoss:
    """The loss of the scores that a branch gave in its last forward pass."""

    def __init__(self, branch: LandmarkBranch, weight: float) -> None:
        self.weight = weight
        self.maps: torch.Tensor | None = None
        branch.register_forward_hook(self._keep)

    def _keep(self, _branch: nn.Module, _inputs: tuple, maps: torch.Tensor) -> None:
        self.maps = maps

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        """`landmark_loss` of that pass, times the weight. Raises RuntimeError if there was none."""
        maps, self.maps = self.maps, None
        if maps is None:
            raise RuntimeError("the landmark branch has had no forward pass since the last loss")
        return self.weight * landmark_loss(maps, points)


def heat(maps: torch.Tensor) -> torch.Tensor:
    """Scores as likelihoods relative to the likeliest position, which has 1."""
    return (maps - maps.amax((2, 3), keepdim=True)).exp()


def landmark_loss(maps: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Cross-entropy between each visible landmark's Gaussian and the softmax of its scores
    [B, 8, H, W] over all positions; mean of the eight (0 for invisible ones), summed over the
    images. `points` float32 [B, 8, 3] as in catalog.landmarks."""
    (down, across), (x, y, seen) = _grid(maps), points.unbind(2)
    bump = torch.exp(
        -(_square(down, y)[..., None] + _square(across, x)[:, :, None]) / (2 * _SPREAD**2)
    ).flatten(2)
    bump = bump / bump.sum(2, keepdim=True).clamp(min=1e-12)
    return -((bump * log_softmax(maps.float().flatten(2), 2)).sum(2) * (seen > 0)).sum() / COUNT


def landmark_error(maps: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Distances, as shares of the side, between visible landmarks and their likeliest positions,
    float32 [visible landmarks]."""
    down, across = _grid(maps)
    best = maps.flatten(2).argmax(2)
    width = maps.shape[3]
    likeliest = torch.stack([across[best % width], down[best // width]], 2)
    return (likeliest - points[..., :2]).norm(dim=2)[points[..., 2] > 0]


def _grid(maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres of rows and of columns, as shares of the sides."""
    rows, columns = (
        (torch.arange(side, device=maps.device) + 0.5) / side for side in maps.shape[2:]
    )
    return rows, columns


def _square(grid: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    return (grid - centre[..., None]) ** 2
