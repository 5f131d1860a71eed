import torch
from torch import nn

from stage1_cnn.training.ema import Ema


def module() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_it_is_the_moving_average_of_weights_and_statistics() -> None:
    own = module()
    ema, expected = Ema(own, 0.5), own[0].weight.detach().clone()
    for step in range(1, 21):
        with torch.no_grad():
            own[0].weight.add_(1)
        own(torch.rand(4, 3))
        ema.update(own)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * own[0].weight.detach()
    torch.testing.assert_close(ema.module[0].weight, expected)
    assert not torch.equal(ema.module[1].running_mean, own[1].running_mean)
    assert ema.module[1].num_batches_tracked == own[1].num_batches_tracked
    assert not ema.module.training
    assert not any(p.requires_grad for p in ema.module.parameters())


def test_restored_it_goes_on_exactly() -> None:
    own = module()
    one, other = Ema(own, 0.9), Ema(module(), 0.9)
    one.update(own)
    other.restore(one.state())
    with torch.no_grad():
        own[0].weight.mul_(2)
    one.update(own)
    other.update(own)
    assert torch.equal(one.module[0].weight, other.module[0].weight)
