"""Training, extraction, scoring and the demo on a GPU, in less than 10 minutes.

Claims (goals): training and extraction from the store at 90% or more of the bare network on
synthetic tensors, ResNet-50 at 224 px, bf16, channels_last, compiled; 10,000 images/s from a dump
to Parquet on an H200 with 16 cores. Published: A100 2,470 images/s of AMP training at 224 px; H100
about 7,000 (MLPerf). Also the memory taken, how long the demo takes, and how well the answers agree
with those of the processor in fp32. Photos are drawn, 180 px. Takes turns; the median counts.
--smoke runs on a CPU, without the demo; without a GPU nothing else is measured. Run: python -m
benchmarks.gpu [--batch N] [--photos N] [--rounds N] [--no-compile] [--graphs] [--smoke]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import record
from benchmarks.photos import write_store
from benchmarks.scoring import end_to_end, in_turns, make_dump, make_run
from catalog.parallel import cores
from catalog.sources.source import open_source
from catalog.store.reader import Store
from pipeline.demo import run_demo
from pipeline.model import TwoStageModel
from pipeline.scoring.agreement import measure as measure_agreement
from stage1_cnn.config import Stage1Config
from stage1_cnn.dataset import in_parts
from stage1_cnn.device import Compute, choose_compute
from stage1_cnn.networks.backbones import Network, build
from stage1_cnn.training.inputs import PhotoInputs
from stage1_cnn.training.learner import Learner, Pair, Schedule, Tally, train_steps


def main() -> None:
    """Prints images/s of each, the ratios, and the memory taken."""
    parser = record.parser(__doc__)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument(
        "--photos", type=int, default=6000, help="products drawn; read over and over"
    )
    parser.add_argument("--steps", type=int, default=60, help="steps a run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile")
    parser.add_argument("--graphs", action="store_true", help="with CUDA graphs")
    options = parser.parse_args()
    backbone, side, own = "resnet50", 224, 180
    if options.smoke:
        backbone, side, own = "resnet18", 32, 32
        options.batch, options.photos, options.steps, options.rounds = 8, 60, 2, 1
        options.no_compile = True
    elif not torch.cuda.is_available():
        print("no usable GPU here: nothing measured (--smoke runs on a CPU)")
        return
    compute = choose_compute()
    compiled = "none" if options.no_compile else "graphs" if options.graphs else "plain"
    config = Stage1Config(
        backbone=backbone, weights="none", image_size=side, batch_size=options.batch
    )
    print(f"{compute.to_json()}, {backbone} at {side}, batch {options.batch}, compile {compiled}")
    with tempfile.TemporaryDirectory() as folder, compute.determinism(False):
        store = write_store(Path(folder), products=options.photos, side=own)
        figures = measure(store, config, compute, options.steps, options.rounds, compiled)
        figures |= scoring(Path(folder), backbone, compute, options)
        if not options.smoke:
            figures["demo_seconds"] = demo(Path(folder) / "demo")
    about = {"device": compute.to_json()["device"], "batch": options.batch, "compile": compiled}
    record.save(options.json, about | figures, precision=compute.precision, rounds=options.rounds)


def measure(
    store: Store, config: Stage1Config, compute: Compute, steps: int, rounds: int, compiled: str
) -> dict[str, Any]:
    """Both jobs, from the store and bare: images/s."""
    table = store.images("train")
    photos = PhotoInputs(store, table, table, config, compute)
    network = build(config.backbone, len(store.taxonomy)).to(compute.device)
    network.to(memory_format=torch.channels_last)
    learner = Learner(network, config, compute, lr=1e-4, schedule=Schedule(10**6, 0))
    learner.distribute(compiled)
    inputs, labels = next(photos.training([np.arange(config.batch_size) % len(table)], 1))
    jobs = {
        "training": (
            lambda: train(learner, islice(endless(photos), steps)),
            lambda: train(learner, bare(inputs, labels, steps)),
        ),
        "extraction": (
            lambda: extract(network, compute, islice(endless(photos, plain=True), steps)),
            lambda: extract(network, compute, bare(inputs, labels, steps)),
        ),
    }
    figures: dict[str, Any] = {}
    for name, (from_store, in_memory) in jobs.items():
        rate(compute, from_store), rate(compute, in_memory)  # compiles, and warms up
        rates = [(rate(compute, from_store), rate(compute, in_memory)) for _ in range(rounds)]
        figures[name] = {
            "stored": record.over_rounds([stored for stored, _ in rates]),
            "bare": record.over_rounds([alone for _, alone in rates]),
            "ratio": record.over_rounds([stored / alone for stored, alone in rates]),
        }
        stored, alone, ratio = (figure["median"] for figure in figures[name].values())
        rates_text = f"from the store {stored:.0f} images/s, bare {alone:.0f}, ratio {ratio:.3f}"
        print(f"{name}: {rates_text} (goal 0.9)", flush=True)
    print("published, training: A100 2,470 images/s (AMP, 224 px), H100 about 7,000 (MLPerf)")
    if compute.device.type == "cuda":
        figures["gib"] = torch.cuda.max_memory_allocated(compute.device) / 2**30
        print(f"most memory: {figures['gib']:.1f} GiB")
    return figures


def scoring(
    folder: Path, backbone: str, compute: Compute, options: argparse.Namespace
) -> dict[str, Any]:
    """Both stages from a dump to Parquet, images/s, and how well they agree with the processor."""
    size, side = (32, 40) if options.smoke else (224, 180)
    run = make_run(folder / "scoring", backbone, size, side, "auto")
    dump = make_dump(folder / "dump.bson", options.photos, side)
    device = str(compute.device)
    model = TwoStageModel.open(run, device)
    images = int(open_source([dump], folder / "index").n_images.sum())
    ways = {"end to end": (images, lambda: end_to_end(model, folder))}
    rates = in_turns(ways, options.rounds)["end to end"]
    measured = measure_agreement(run, TwoStageModel.open(run, "cpu", "fp32", "torch"))
    print(f"end to end: {statistics.median(rates):.0f} images/s (goal 10,000), {cores()} cores")
    print(f"the processor in fp32 instead: {measured.text()}", flush=True)
    agreement = {"products": measured.products, "same": measured.same, "most": measured.most}
    return {"end_to_end": record.over_rounds(rates), "cores": cores(), "agreement": agreement}


def demo(folder: Path) -> float:
    """Seconds of `shelfsort demo`."""
    started = time.perf_counter()
    run_demo(folder, [])
    return time.perf_counter() - started


def endless(photos: PhotoInputs, plain: bool = False) -> Iterator[Pair]:
    """Batches from the store, as in training, or as in extraction."""
    epoch, size = 0, photos.config.batch_size
    while True:
        epoch += 1
        order = np.random.default_rng(epoch).permutation(len(photos))
        order = np.resize(order, max(1, len(order) // size) * size)
        parts = in_parts(order, size)
        if plain:
            yield from (
                (inputs, labels)
                for _, inputs, labels in photos.batches(photos.train, photos.transform, parts)
            )
        else:
            yield from photos.training(parts, epoch)


def bare(inputs: torch.Tensor, labels: torch.Tensor, steps: int) -> Iterator[Pair]:
    """The same batch again and again."""
    for _ in range(steps):
        yield inputs, labels


def train(learner: Learner, pairs: Iterator[Pair]) -> int:
    """Images of some steps."""
    return sum(train_steps(learner, (pair for pair in pairs), Tally()))


def extract(network: Network, compute: Compute, pairs: Iterator[Pair]) -> int:
    """Images whose features were computed and brought back, as for features.h5."""
    network.eval()
    images = 0
    with torch.inference_mode():
        for inputs, _ in pairs:
            with compute.autocast():
                images += len(network.features(inputs).half().cpu())
    return images


def rate(compute: Compute, run: Callable[[], int]) -> float:
    """Images a second."""
    started = time.perf_counter()
    images = run()
    if compute.device.type == "cuda":
        torch.cuda.synchronize(compute.device)
    return images / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
