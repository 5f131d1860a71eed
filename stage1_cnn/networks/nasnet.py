"""NASNet-A (4 @ 1056), known as NASNet-Mobile (Zoph et al. 2018), built of timm's cells; timm
itself has only the large one."""

import torch
from timm.models.nasnet import NASNetALarge
from torch import nn
from torch.nn.functional import avg_pool2d

_STAGES = [[f"cell_{number}" for number in range(first, first + 4)] for first in (0, 6, 12)]
_CELLS = [*_STAGES[0], "reduction_cell_0", *_STAGES[1], "reduction_cell_1", *_STAGES[2]]


class NasnetMobile(NASNetALarge):
    """Four normal cells a stage and not six, a stem of 32 filters, 1,056 features: float32 [B, 3,
    H, W] -> [B, classes].

    The modules have the names of the network published as `nasnetamobile`
    (pretrained-models.pytorch), so that its weights fit.
    """

    def __init__(self, classes: int = 1000) -> None:
        super().__init__(num_classes=classes, stem_size=32, num_features=1056)
        for number in (4, 5, 10, 11, 16, 17):
            delattr(self, f"cell_{number}")
        for cell in (
            self.cell_stem_0,
            self.cell_stem_1,
            self.reduction_cell_0,
            self.reduction_cell_1,
        ):
            cell.comb_iter_2_left = SameAverage()

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """float32 [B, 3, H, W] -> [B, 1056, H / 32, W / 32]. Each cell sees the two before it;
        the large network's normal cells after a reduction see what the reduction saw instead."""
        stem = self.conv0(images)
        earlier = self.cell_stem_0(stem)
        out = self.cell_stem_1(stem, earlier)
        for name in _CELLS:
            earlier, out = out, getattr(self, name)(out, earlier)
        return self.act(out)


class SameAverage(nn.Module):
    """Mean over 3 x 3 places, every second one, padded as TensorFlow does (`SAME`): what is
    padded does not count. timm's counts as zeros, which is another number along the border."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] -> [B, C, ceil(H / 2), ceil(W / 2)]."""
        odd = [side % 2 for side in images.shape[2:]]
        return avg_pool2d(images, 3, 2, padding=odd, ceil_mode=True, count_include_pad=False)
