"""The trainer against a bare loop, and the head phase on cached features against the frozen network
run every epoch.

Claims: a step of the trainer at least 95% as fast as a bare loop over tensors in memory, ResNet-50
at 224 px; twelve head epochs at least 8 times as fast as with the frozen forward pass each epoch,
top-1 on val_a equal within 0.2 points. Takes turns; medians count. Run: python -m
benchmarks.trainer [--rounds N] [--steps N] [--batch N] [--weights FILE] [--smoke]
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import record
from benchmarks.photos import write_store
from catalog.store.reader import Store
from stage1_cnn.config import Augment, Stage1Config
from stage1_cnn.dataset import in_parts
from stage1_cnn.device import Compute, choose_compute
from stage1_cnn.networks.backbones import Network, build
from stage1_cnn.training.inputs import CachedFeatures, PhotoInputs
from stage1_cnn.training.learner import (
    Learner,
    Pair,
    Schedule,
    Tally,
    evaluate,
    make_optimizer,
    train_steps,
)

CLASSES, EPOCHS = 1000, 12
STILL = Augment(flip=False, crop=1, stretch=1, colour=0)


def main() -> None:
    """Prints both ratios."""
    parser = record.parser(__doc__)
    parser.add_argument(
        "--rounds", type=int, default=5, help="pairs of runs of the step; the head phase runs three"
    )
    parser.add_argument("--steps", type=int, default=6, help="steps a run")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--products", type=int, default=2000, help="of the head phase's store")
    parser.add_argument(
        "--weights", default="none", help="of the head phase's ResNet-18, as stage1.weights"
    )
    options = parser.parse_args()
    backbone, side, rounds = "resnet50", 224, 3
    if options.smoke:
        backbone, side, rounds = "resnet18", 32, 1
        options.rounds, options.steps, options.batch, options.products = 1, 2, 4, 100
    figures = {"step": step_ratio(backbone, side, options.batch, options.steps, options.rounds)}
    with tempfile.TemporaryDirectory() as folder:
        store = write_store(Path(folder), products=options.products, side=64)
        figures["head"] = head_ratio(
            store, options.weights, 32 if options.smoke else 64, rounds, Path(folder)
        )
    record.save(options.json, figures, precision=choose_compute().precision, rounds=options.rounds)


def step_ratio(backbone: str, side: int, batch: int, steps: int, rounds: int) -> dict[str, Any]:
    """The trainer's steps a second over the bare loop's."""
    compute, config = (
        choose_compute(),
        Stage1Config(backbone=backbone, image_size=side, batch_size=batch),
    )
    inputs = torch.randn(batch, 3, side, side).to(compute.device, memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (batch,), device=compute.device)
    networks = [build(backbone, CLASSES).to(compute.device).train() for _ in range(2)]
    for network in networks:
        network.to(memory_format=torch.channels_last)
    learner = Learner(networks[0], config, compute, lr=1e-4, schedule=Schedule(10**6, 0))
    optimizer = make_optimizer(networks[1].parameters(), config, 1e-4, {})
    ratios = []
    for number in range(rounds + 1):
        ours = seconds(compute, lambda: trainer_steps(learner, inputs, labels, steps))
        bare = seconds(
            compute, lambda: bare_steps(networks[1], optimizer, compute, inputs, labels, steps)
        )
        if number:
            ratios.append(bare / ours)
    rate = steps * batch / bare
    text = f"{statistics.median(ratios):.3f} of {[round(r, 3) for r in ratios]}"
    title = f"{backbone} at {side}, batch {batch}, {compute.precision}"
    print(f"{title}: trainer / bare loop {text} (claim 0.95; {rate:.1f} images/s)", flush=True)
    return {
        "backbone": backbone,
        "pixels": side,
        "batch": batch,
        "ratio": record.over_rounds(ratios),
        "images_per_second": rate,
    }


def seconds(compute: Compute, run: Callable[[], None]) -> float:
    """How long `run` takes, the device's queue included."""
    started = time.perf_counter()
    run()
    if compute.device.type == "cuda":
        torch.cuda.synchronize(compute.device)
    return time.perf_counter() - started


def trainer_steps(learner: Learner, inputs: torch.Tensor, labels: torch.Tensor, steps: int) -> None:
    """Steps as `shelfsort stage1` takes them."""
    for _ in train_steps(learner, in_memory(inputs, labels, steps), Tally()):
        pass


def in_memory(inputs: torch.Tensor, labels: torch.Tensor, steps: int) -> Generator[Pair]:
    """The same batch again and again."""
    for _ in range(steps):
        yield inputs, labels


def bare_steps(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    compute: Compute,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    steps: int,
) -> None:
    """The least that trains."""
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        with compute.autocast():
            loss = nn.functional.cross_entropy(network(inputs), labels)
        loss.backward()
        optimizer.step()


def head_ratio(store: Store, weights: str, side: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Seconds of twelve head epochs with the frozen forward pass over those on cached features."""
    train, val = store.images("train"), store.images("val_a")
    config = Stage1Config(
        backbone="resnet18",
        weights=weights,
        image_size=side,
        batch_size=64,
        augment=STILL,
        head_lr=3e-3,
        label_smoothing=0,
    )
    compute = choose_compute()
    photos = PhotoInputs(store, train[train.fit], val[val.fit], config, compute)
    ratios, top1 = [], {}
    for _ in range(rounds):
        spent = {}
        for name in ("frozen", "cached"):
            network = build("resnet18", len(store.taxonomy), weights=weights)
            network.to(compute.device).to(memory_format=torch.channels_last).freeze(0)
            started = time.perf_counter()
            cached = name == "cached"
            source = CachedFeatures(photos, network, folder, lambda: None) if cached else photos
            top1[name] = train_head(network, source, config, cached)
            spent[name] = time.perf_counter() - started
        ratios.append(spent["frozen"] / spent["cached"])
    apart = 100 * abs(top1["cached"] - top1["frozen"])
    text = f"{statistics.median(ratios):.1f} of {[round(r, 1) for r in ratios]}"
    print(
        f"{EPOCHS} head epochs, {len(photos)} photos: frozen forward / cached {text} "
        f"(claim 8; {spent['frozen']:.1f} s)"
    )
    both = f"cached {top1['cached']:.4f}, frozen {top1['frozen']:.4f}"
    print(
        f"top-1 on val_a ({len(photos.val)} photos): {both}, {apart:.2f} points apart (claim 0.2)"
    )
    counts = {"epochs": EPOCHS, "photos": len(photos), "val_photos": len(photos.val)}
    return counts | {"ratio": record.over_rounds(ratios), "top1": top1}


def train_head(
    network: Network, source: PhotoInputs | CachedFeatures, config: Stage1Config, cached: bool
) -> float:
    """Twelve epochs; top-1 on val_a."""
    module, steps = network.head if cached else network, len(source) // config.batch_size
    learner = Learner(
        module,
        config,
        source.compute,
        lr=config.head_lr,
        schedule=Schedule(EPOCHS * steps, steps // 2),
    )
    for epoch in range(EPOCHS):
        order = np.random.default_rng(epoch).permutation(len(source))[: steps * config.batch_size]
        for _ in train_steps(
            learner, source.training(in_parts(order, config.batch_size), epoch), Tally()
        ):
            pass
    metrics = evaluate(module, source.validation(), source.compute)
    if metrics is None:
        raise SystemExit("no photo of val_a could be read")
    return metrics.top1


if __name__ == "__main__":
    main()
