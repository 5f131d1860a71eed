import numpy as np
import pytest
import torch

from stage1_cnn import policies
from stage1_cnn.config import Augment

RANDOM = np.random.default_rng(0)
IMAGE = torch.from_numpy(RANDOM.integers(0, 256, (3, 40, 32), dtype=np.uint8))


@pytest.mark.parametrize("policy, count", [("none", 0), ("randaugment", 4), ("trivialaugment", 3)])
def test_draws_needed(policy: str, count: int) -> None:
    assert policies.draws_needed(Augment(policy=policy)) == count


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
def test_images_stay_images_and_follow_their_numbers(policy: str) -> None:
    augment, different = Augment(policy=policy), 0
    for draw in RANDOM.random((60, policies.draws_needed(augment))):
        changed = policies.apply(augment, IMAGE, draw)
        assert changed.dtype == torch.uint8
        assert changed.shape == IMAGE.shape
        assert torch.equal(changed, policies.apply(augment, IMAGE, draw))
        different += not torch.equal(changed, IMAGE)
    assert 30 < different <= 60


def test_magnitude_zero_hardly_changes_geometry() -> None:
    geometry = [(place + 0.5) / 14 for place in (1, 2, 3, 4, 5)]
    weak, strong = (Augment(policy="randaugment", operations=1, magnitude=m) for m in (0, 30))
    for which in geometry:
        draw = np.array([which, 0.9])
        assert torch.equal(policies.apply(weak, IMAGE, draw), IMAGE)
        assert not torch.equal(policies.apply(strong, IMAGE, draw), IMAGE)
