import dataclasses
import math
import socket

import pytest
import torch
from torch import distributed, nn

from catalog.errors import ConfigError, ShelfsortError
from stage1_cnn.config import Stage1Config
from stage1_cnn.device import Compute, choose_compute
from stage1_cnn.processes import Processes
from stage1_cnn.training.learner import Learner, Schedule, Tally, evaluate, train_steps

COMPUTE = choose_compute("cpu", "fp32")


def learner(module: nn.Module, *, lr: float = 0.1, steps: int = 100, **options: object) -> Learner:
    config = Stage1Config(**{"label_smoothing": 0, "weight_decay": 0, **options})
    return Learner(module, config, COMPUTE, lr=lr, schedule=Schedule(steps, 0))


def linear() -> nn.Linear:
    module = nn.Linear(4, 3)
    with torch.no_grad():
        module.weight.copy_(torch.eye(3, 4))
        module.bias.zero_()
    return module


def test_schedule_warms_up_and_falls_to_nothing() -> None:
    schedule = Schedule(110, 10)
    factors = [schedule(step) for step in range(110)]
    assert factors[0] == pytest.approx(1 / 11)
    assert max(factors) == factors[10] == 1
    assert factors[:11] == sorted(factors[:11])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0 < factors[-1] < 0.001
    assert factors[60] == pytest.approx(0.5)


def test_a_constant_schedule_stays_where_the_warm_up_ends() -> None:
    schedule = Schedule(20, 4, constant=True)
    assert [schedule(step) for step in range(4, 20)] == [1.0] * 16
    assert schedule(0) == pytest.approx(0.2)


def test_evaluate_counts_first_and_first_five() -> None:
    logits = torch.tensor([[9.0, 5, 4, 3, 2, 1], [5, 9, 4, 3, 2, 1], [5, 4, 3, 2, 1, 0]])
    labels = torch.tensor([0, 0, 5])
    metrics = evaluate(nn.Identity(), [(logits[:2], labels[:2]), (logits[2:], labels[2:])], COMPUTE)
    assert (metrics.top1, metrics.top5, metrics.images) == (
        pytest.approx(1 / 3),
        pytest.approx(2 / 3),
        3,
    )
    expected = -torch.log_softmax(logits, 1)[torch.arange(3), labels].mean()
    assert metrics.loss == pytest.approx(float(expected), rel=1e-5)


def test_evaluate_with_few_categories_or_no_images() -> None:
    assert (
        evaluate(nn.Identity(), [(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))], COMPUTE).top5
        == 1
    )
    assert evaluate(nn.Identity(), [], COMPUTE) is None


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_steps_lower_the_loss(optimizer: str) -> None:
    module, inputs, labels = linear(), torch.rand(32, 4), torch.arange(32) % 3
    inputs[torch.arange(32), labels] += 1
    run = learner(module, optimizer=optimizer)
    losses = [float(run.step([(inputs, labels)])) for _ in range(50)]
    assert losses[-1] < 0.6 * losses[0]
    assert run.steps == 50


def test_label_smoothing_is_that_of_the_textbook() -> None:
    inputs, labels = torch.rand(5, 4), torch.arange(5) % 3
    module = linear()
    targets = nn.functional.one_hot(labels, 3) * 0.7 + 0.3 / 3
    expected = -(targets * torch.log_softmax(module(inputs), 1)).sum(1).mean().item()
    assert float(
        learner(module, label_smoothing=0.3).step([(inputs, labels)])
    ) / 5 == pytest.approx(expected, rel=1e-6)


def test_long_gradients_are_clipped() -> None:
    module, before = linear(), linear()
    learner(module, lr=1.0, optimizer="sgd", clip_norm=1e-3).step(
        [(1e4 * torch.rand(8, 4), torch.zeros(8).long())]
    )
    change = torch.cat(
        [(a - b).flatten() for a, b in zip(module.parameters(), before.parameters(), strict=True)]
    )
    assert (
        0 < change.norm() <= 1e-3 * (1 + 0.9) * 1.001
    )  # Nesterov's first step is 1 + momentum gradients


def test_without_a_limit_gradients_keep_their_length() -> None:
    module, before = linear(), linear()
    inputs = 1e4 * torch.rand(8, 4)
    learner(module, lr=1.0, optimizer="sgd", clip_norm=None).step([(inputs, torch.zeros(8).long())])
    assert (module.weight - before.weight).norm() > 1e3


def test_only_matrices_decay() -> None:
    run = learner(linear(), weight_decay=0.5)
    decays = {
        tuple(p.shape): group["weight_decay"]
        for group in run.optimizer.param_groups
        for p in group["params"]
    }
    assert decays == {(3, 4): 0.5, (3,): 0.0}


def test_a_restored_learner_goes_on_exactly() -> None:
    inputs, labels = torch.rand(20, 8, 4), torch.arange(8) % 3
    whole, first, second = linear(), linear(), linear()
    run = learner(whole, steps=20)
    for batch in inputs:
        run.step([(batch, labels)])
    run = learner(first, steps=20)
    for batch in inputs[:9]:
        run.step([(batch, labels)])
    second.load_state_dict(first.state_dict())
    again = learner(second, steps=20)
    again.restore(run.state())
    for batch in inputs[9:]:
        again.step([(batch, labels)])
    assert torch.equal(second.weight, whole.weight)


@pytest.mark.parametrize("precisions", [("fp32", "fp16"), ("fp16", "fp32"), ("fp16", "fp16")])
def test_another_precision_goes_on(precisions: tuple[str, str]) -> None:
    """Loss scaling is of fp16 alone."""
    first, second = (
        Learner(
            linear(),
            Stage1Config(),
            Compute(COMPUTE.device, precision),
            lr=0.1,
            schedule=Schedule(10, 0),
        )
        for precision in precisions
    )
    first.steps = 3
    second.restore(first.state())
    assert second.steps == 3 and second.scaler.is_enabled() == (precisions[1] == "fp16")


def test_a_tally_knows_every_step_and_a_single_image_is_passed_over() -> None:
    pairs = [(torch.rand(n, 4), torch.zeros(n).long()) for n in (4, 1, 0, 3)]
    run, tally = learner(linear()), Tally()
    assert list(train_steps(run, iter_closing(pairs), tally)) == [4, 1, 0, 3]
    assert (tally.step, tally.images, run.steps) == (4, 7, 2)
    assert math.isfinite(float(tally.loss))


def iter_closing(pairs: list) -> object:
    yield from pairs


def test_a_lost_network_is_an_error() -> None:
    with pytest.raises(ShelfsortError, match=r"loss became nan .*lower stage1\.lr"):
        evaluate(nn.Identity(), [(torch.full((1, 3), math.nan), torch.tensor([0]))], COMPUTE)


def test_parts_of_a_step_add_up() -> None:
    inputs, labels = torch.rand(12, 4), torch.arange(12) % 3
    whole, parts = linear(), linear()
    one = learner(whole).step([(inputs, labels)])
    other = learner(parts).step([(inputs[:5], labels[:5]), (inputs[5:], labels[5:])])
    assert float(one) == pytest.approx(
        float(other), rel=1e-6
    )  # both are float32 sums, in another order
    torch.testing.assert_close(whole.weight, parts.weight)


def test_deeper_parameters_learn_slower() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    depths = dict.fromkeys(module[0].parameters(), 2)
    config = Stage1Config(layer_decay=0.5)
    run = Learner(module, config, COMPUTE, lr=0.1, schedule=Schedule(10, 0), depths=depths)
    rates = {p: group["top_lr"] for group in run.optimizer.param_groups for p in group["params"]}
    assert rates[module[0].weight] == rates[module[0].bias] == pytest.approx(0.025)
    assert rates[module[1].weight] == 0.1
    run.step([(torch.rand(4, 4), torch.arange(4) % 3)])
    assert run.lr == 0.1


def test_logit_adjustment_is_that_of_the_paper() -> None:
    inputs, labels, shares = torch.rand(5, 4), torch.arange(5) % 3, torch.tensor([0.7, 0.2, 0.1])
    module, config = linear(), Stage1Config(logit_adjustment=1.5, label_smoothing=0)
    expected = nn.functional.cross_entropy(
        module(inputs) + 1.5 * shares.log(), labels, reduction="sum"
    ).item()
    run = Learner(module, config, COMPUTE, lr=0.1, schedule=Schedule(10, 0), shares=shares)
    assert float(run.step([(inputs, labels)])) == pytest.approx(expected, rel=1e-6)


def test_a_category_without_photos_is_never_the_answer() -> None:
    torch.manual_seed(0)
    inputs, labels = torch.rand(64, 4), torch.arange(64) % 2
    module, config = (
        linear(),
        Stage1Config(logit_adjustment=1, label_smoothing=0.1, optimizer="sgd", clip_norm=None),
    )
    run = Learner(
        module,
        config,
        COMPUTE,
        lr=1.0,
        schedule=Schedule(300, 0, True),
        shares=torch.tensor([0.5, 0.5, 0.0]),
    )
    for _ in range(300):
        run.step([(inputs, labels)])
    assert (module(inputs).argmax(dim=1) != 2).all()


def test_the_average_is_what_is_judged_and_restored() -> None:
    module, config = linear(), Stage1Config(ema_decay=0.9)
    run = Learner(module, config, COMPUTE, lr=0.1, schedule=Schedule(10, 0), average=True)
    run.step([(torch.rand(4, 4), torch.arange(4) % 3)])
    assert not torch.equal(run.validated.weight, module.weight)
    again = Learner(linear(), config, COMPUTE, lr=0.1, schedule=Schedule(10, 0), average=True)
    again.restore(run.state())
    assert torch.equal(again.validated.weight, run.validated.weight)
    assert learner(module).validated is module


def test_batch_norm_passes_over_a_part_of_one() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    pairs = [(torch.rand(n, 4), torch.zeros(n).long()) for n in (3, 1, 2, 2)]
    run, tally = learner(module), Tally()
    assert list(train_steps(run, iter_closing(pairs), tally, parts=2)) == [4, 4]
    assert (tally.step, tally.images, run.steps) == (2, 4, 1)


@pytest.mark.parametrize("compiled", ["none", "plain"])
def test_gradients_travel_with_the_last_part_alone(compiled: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    distributed.init_process_group("gloo", init_method=address, rank=0, world_size=1)
    try:
        compute = dataclasses.replace(COMPUTE, processes=Processes(size=2))
        run = Learner(linear(), Stage1Config(), compute, lr=0.1, schedule=Schedule(10, 0))
        run.distribute(compiled)
        found = []
        for last in (False, True):
            with run._synchronised(last):
                found.append(run.shared.require_backward_grad_sync)
    finally:
        distributed.destroy_process_group()
    assert found == [False, True]


def test_cuda_graphs_need_a_gpu() -> None:
    with pytest.raises(ConfigError, match="CUDA graphs need a GPU, found cpu"):
        learner(linear()).distribute("graphs")


@pytest.mark.slow
def test_a_compiled_module_learns_the_same() -> None:
    plain, compiled = linear(), linear()
    inputs, labels = torch.rand(6, 8, 4), torch.arange(8) % 3
    one, other = learner(plain), learner(compiled)
    other.distribute("plain")
    for batch in inputs:
        torch.testing.assert_close(
            other.step([(batch, labels)]), one.step([(batch, labels)]), rtol=1e-5, atol=1e-6
        )
    torch.testing.assert_close(compiled.weight, plain.weight)
