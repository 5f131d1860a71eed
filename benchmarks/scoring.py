"""Scoring end to end against the bare network, and its memory.

Claims: both stages from the dump to Parquet run at 92% or more of the bare stage-1 forward on the
same images, decoded and in memory (ResNet-50 at 224, two cores), at 80% or more with MobileNetV2 at
96; memory from 10,000 to 200,000 products grows by less than 10%. Bare is the fastest that this
machine can do: every runtime that is installed, in a single-threaded stream a core, and PyTorch
with all of its threads; it sees the first images of the dump only, so that a round is short. End to
end is by the runtime that the run measured as the fastest, and by PyTorch beside it.

Run: python -m benchmarks.scoring [--backbone NAME] [--precision NAME] [--price PER_HOUR]
[--products N] [--rounds N] [--folder DIR] [--memory] [--smoke]
"""

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import bson
import numpy as np
import torch

from benchmarks import record
from catalog.images import decode
from catalog.parallel import cores
from catalog.sources.source import ProductSource, open_source
from catalog.synthetic.dump import SyntheticSpec, products
from pipeline import steps
from pipeline.config import ScoreConfig, load_config
from pipeline.demo import write_synthetic
from pipeline.model import TwoStageModel
from pipeline.networks import open_network
from pipeline.quantisation import SplitPhotos
from pipeline.run_folder import RunFolder
from pipeline.scoring.lanes import Lanes
from pipeline.scoring.plan import DecisionInputs
from pipeline.scoring.score import Scorer, score_source
from stage1_cnn.device import inference_compute, ordered
from stage1_cnn.onnx import keep_beside
from stage1_cnn.predict import Predictor
from stage1_cnn.quantise import QUANTISED, quantise
from stage1_cnn.runtimes import candidates

CASES = {
    "resnet50": (224, 180, 0.92),
    "mobilenet_v2": (96, 180, 0.80),
    "shufflenet_v2_x0_5": (32, 40, 0.0),
}
"""Backbone: pixels a side of the network and of the photos, and the goal."""
BARE = 4
"""Batches that the bare network sees."""
NO_IMAGES = np.zeros(0, dtype=np.uint64)


def main() -> None:
    """Prints each case's ratio, or the memory of both sizes."""
    parser = record.parser(__doc__)
    parser.add_argument(
        "--backbone",
        choices=CASES,
        action="append",
        help="one case; by default ResNet-50 and MobileNetV2",
    )
    parser.add_argument("--products", type=int, default=1000)
    parser.add_argument("--precision", choices=("fp32", "bf16", "int8"), default="fp32")
    parser.add_argument(
        "--price", type=float, metavar="PER_HOUR", help="of this machine: prints $ a million images"
    )
    parser.add_argument(
        "--folder", type=Path, help="keep the networks and dumps here, and use those that are there"
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of both; the median counts")
    parser.add_argument("--memory", action="store_true", help="measure memory, not speed")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs=2,
        default=[10_000, 200_000],
        help="products of the two dumps for --memory",
    )
    parser.add_argument(
        "--score", nargs=2, type=Path, metavar=("RUN", "DUMP"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.smoke:
        options.products, options.rounds, options.sizes = 60, 1, [100, 400]
        options.backbone = ["shufflenet_v2_x0_5"]
    if options.score:
        print(peak_of(*options.score))
    elif options.memory:
        figures = memory(options.sizes)
        record.save(options.json, figures, precision=figures["precision"])
    else:
        speeds(options)


def speeds(options: argparse.Namespace) -> None:
    """The ratio of each backbone asked for."""
    figures = {}
    with tempfile.TemporaryDirectory() as name:
        for backbone in options.backbone or ["resnet50", "mobilenet_v2"]:
            folder = (options.folder or Path(name)) / f"{backbone}-{options.precision}"
            run = make_run(folder, backbone, *CASES[backbone][:2], options.precision)
            figures[backbone] = speed(backbone, run, options.products, options.rounds)
            print(f"  {summary(figures[backbone], options.price)}", flush=True)
    precision = figures[backbone]["precision"]
    record.save(options.json, figures, precision=precision, rounds=options.rounds)


def summary(figures: dict[str, Any], price: float | None) -> str:
    """Images a second and, at a price an hour, dollars a million images."""
    rate = figures["images_per_second"]["end to end"]["median"]
    cost = "" if price is None else f", ${price / 3600 / rate * 1e6:.2f} a million images"
    return f"end to end: {rate:.1f} images/s{cost}"


def make_run(
    folder: Path, backbone: str, size: int, side: int, precision: str = "fp32"
) -> RunFolder:
    """A run of a hardly trained network: accuracy does not matter here."""
    if (folder / "run" / "stage2" / "heldout.npz").exists():
        return RunFolder(folder / "run")
    write_synthetic(folder / "data", SyntheticSpec(categories=8, products=160, side=side))
    settings = (
        f"stage1.backbone={backbone}",
        "stage1.weights=none",
        f"stage1.image_size={size}",
        "stage1.epochs=1",
        f"features.precision={precision}",
        "jobs=1",
    )
    run, config = RunFolder(folder / "run"), load_config(None, settings)
    quiet: Callable[[str], None] = lambda _: None  # noqa: E731
    names = folder / "data" / "category_names.csv"
    steps.ingest(
        run, config, [str(folder / "data" / "train.bson")], names, rebuild=False, say=quiet
    )
    steps.stage1(run, config, rebuild=False, say=quiet)
    if precision == "int8":
        quantise_unjudged(run)
    for step in (steps.features, steps.stage2):
        step(run, config, rebuild=False, say=quiet)
    return run


def quantise_unjudged(run: RunFolder) -> None:
    """The network in int8, whatever it loses: it knows nothing."""
    predictor = open_network(run.checkpoint, device="cpu", precision="fp32")
    photos = SplitPhotos(run, "val_a", predictor).batches(64)
    network, _ = quantise(predictor, photos)
    keep_beside(run.checkpoint, QUANTISED, predictor.fingerprint, network, {})


def make_dump(path: Path, count: int, side: int) -> Path:
    """A dump of so many products; beyond 500 their photos repeat, under other ids."""
    some = list(products(SyntheticSpec(categories=8, products=min(count, 500), side=side, seed=7)))
    with open(path, "wb") as file:
        for number in range(count):
            file.write(bson.encode({"_id": number, "imgs": some[number % len(some)]["imgs"]}))
    return path


def speed(backbone: str, run: RunFolder, count: int, rounds: int) -> dict[str, Any]:
    """Bare and end to end in turns, images/s."""
    size, side, goal = CASES[backbone]
    folder = run.folder.parent
    precision = run.features.computed_with["precision"]
    model = TwoStageModel.open(run, "cpu", precision)
    source = open_source([make_dump(folder / "dump.bson", count, side)], folder / "index")
    ways = bare_ways(run, list(decoded(model, source)), precision)
    bare_names, images = list(ways), int(source.n_images.sum())
    ways["end to end"] = images, lambda: end_to_end(model, folder)
    if precision != "int8":
        torch_model = TwoStageModel.open(run, "cpu", precision, "torch")
        ways["end to end by PyTorch"] = images, lambda: end_to_end(torch_model, folder)
    rates = in_turns(ways, rounds)
    median = {way: statistics.median(rate) for way, rate in rates.items()}
    best = max(bare_names, key=median.__getitem__)
    runtime, reached = model.network.runtime, median["end to end"]
    print(
        f"{backbone} at {size}, {precision}, {cores()} cores, {images} images, medians of "
        f"{rounds}: end to end by {runtime} {reached:.1f} img/s = {reached / median[best]:.1%} of "
        f"bare ({best}); goal {goal:.0%}",
        flush=True,
    )
    if by_torch := median.get("end to end by PyTorch"):
        print(f"  {reached / by_torch:.2f} times PyTorch end to end", flush=True)
    return {
        "pixels": size,
        "photo_pixels": side,
        "images": images,
        "precision": precision,
        "runtime": runtime,
        "goal": goal,
        "best": best,
        "images_per_second": {way: record.over_rounds(values) for way, values in rates.items()},
    }


Ways = dict[str, tuple[int, Callable[[], None]]]
"""What is measured: name -> its images, and the work."""


def bare_ways(run: RunFolder, batches: list[torch.Tensor], precision: str) -> Ways:
    """The forward alone: PyTorch with its own threads, and each runtime with a single-threaded
    stream a core."""
    ways: Ways = {}
    images = sum(map(len, batches))
    for name in candidates(inference_compute("cpu", precision)):
        predictor = open_network(run.checkpoint, device="cpu", precision=precision, runtime=name)
        if name == "torch":
            ways["one stream"] = images, partial(bare, predictor, batches)
        ways[f"a stream a core, {name}"] = images, partial(bare_lanes, predictor, batches)
        bare_lanes(predictor, batches[: cores()])  # memory, caches and kernels are warm
    return ways


def in_turns(
    ways: dict[str, tuple[int, Callable[[], None]]], rounds: int
) -> dict[str, list[float]]:
    """Images per second of each way, a number for each round; `ways` gives images and work."""
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, (images, work) in ways.items():
            started = time.perf_counter()
            work()
            rates[way].append(images / (time.perf_counter() - started))
        latest = ", ".join(f"{way} {rate[-1]:.1f} img/s" for way, rate in rates.items())
        print(f"  {latest}", flush=True)
    return rates


def decoded(model: TwoStageModel, source: ProductSource) -> Iterator[torch.Tensor]:
    """The first photos of the dump as the network takes them, in batches."""
    size = ScoreConfig().batch_size_on(model.network.compute.device.type)
    photos = list(
        itertools.islice(
            (photo for row in range(len(source)) for photo in source.read(row)), BARE * size
        )
    )
    for start in range(0, len(photos), size):
        batch = photos[start : start + size]
        yield model.network.transform([decode(p) for p in batch if isinstance(p, bytes)])


def bare(predictor: Predictor, batches: list[torch.Tensor]) -> None:
    """The forward alone, one batch after the other."""
    for batch in batches:
        predictor.features(batch)


def bare_lanes(predictor: Predictor, batches: list[torch.Tensor]) -> None:
    """The forward alone, a single-threaded stream a core."""
    for _ in ordered(predictor.features, batches, cores()):
        pass


def end_to_end(model: TwoStageModel, folder: Path, dump: str = "dump.bson") -> None:
    """Scan, reading, decoding, both stages, Parquet."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        source = open_source([folder / dump], Path(name) / "dumps")
        score_source(
            Scorer(Lanes(model, cores()), {}, 0, NO_IMAGES, DecisionInputs(model.taxonomy)),
            source,
            Path(name),
            ScoreConfig(part_mb=16),
        )


def memory(sizes: list[int]) -> dict[str, Any]:
    """Peak memory of scoring either number of products, each in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = make_run(folder, "shufflenet_v2_x0_5", 32, 32)
        peaks = []
        for size in sizes:
            dump = make_dump(folder / f"{size}.bson", size, 32)
            command = [
                sys.executable,
                "-m",
                "benchmarks.scoring",
                "--score",
                str(folder / "run"),
                str(dump),
            ]
            peaks.append(
                float(
                    subprocess.run(
                        command, check=True, capture_output=True, text=True
                    ).stdout.split()[-1]
                )
            )
            print(f"{size} products: peak {peaks[-1]:.1f} MB", flush=True)
        print(f"growth {peaks[1] / peaks[0] - 1:+.1%}; goal below 10%")
        return {
            "products": sizes,
            "peak_mb": peaks,
            "precision": run.features.computed_with["precision"],
        }


def peak_of(run: Path, dump: Path) -> float:
    """Scores, and returns the most memory that this process ever held, MB."""
    import resource

    end_to_end(TwoStageModel.open(RunFolder(run)), dump.parent, dump.name)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
