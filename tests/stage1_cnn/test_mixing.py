import pytest
import torch

from stage1_cnn.config import Augment
from stage1_cnn.mixing import Mixing


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_targets_are_the_shares_of_the_two_photos(kind: str) -> None:
    torch.default_generator.manual_seed(1)
    mixing = Mixing(Augment(**{kind: 1.0}), 3)
    inputs = torch.stack([torch.full((3, 20, 20), float(value)) for value in (0, 1, 0)])
    labels = torch.tensor([0, 1, 2])
    seen = set()
    for _ in range(20):
        mixed, targets = mixing(inputs, labels)
        assert targets.shape == (3, 3)
        torch.testing.assert_close(targets.sum(1), torch.ones(3))
        torch.testing.assert_close(mixed.mean((1, 2, 3)), targets[:, 1], atol=1e-5, rtol=0)
        seen.add(round(float(targets[1, 1]), 3))
    assert len(seen) > 10


def test_off_it_changes_nothing() -> None:
    inputs, labels = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
    assert Mixing(Augment(), 2)(inputs, labels) == (inputs, labels)


def test_both_take_turns_and_follow_the_generator() -> None:
    mixing, inputs, labels = (
        Mixing(Augment(mixup=0.5, cutmix=1), 2),
        torch.rand(4, 3, 8, 8),
        torch.arange(4) % 2,
    )

    def draw() -> list[torch.Tensor]:
        torch.default_generator.manual_seed(3)
        return [mixing(inputs, labels)[0] for _ in range(12)]

    once = draw()
    assert all(torch.equal(one, other) for one, other in zip(once, draw(), strict=True))
    pasted = [torch.isin(mixed, inputs).all().item() for mixed in once]
    assert 0 < sum(pasted) < 12
