"""A network on a processor with memory that is kept (`stage1_cnn.device.keep_memory`) and with
glibc's own way, each in a process of its own: training steps, and batches of scoring on a
single-threaded stream a core.

Takes turns; the median ratio counts.
Run: python -m benchmarks.heap [--rounds N] [--smoke]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch

from benchmarks import record
from catalog.parallel import cores
from stage1_cnn.config import Stage1Config
from stage1_cnn.device import choose_compute, keep_memory, one_thread
from stage1_cnn.networks.backbones import Network, build
from stage1_cnn.training.learner import Learner, Schedule

CASES = {"resnet50": (224, 20, 32), "mobilenet_v2": (96, 64, 32)}
"""Pixels, and the photos of a batch in training and in scoring."""
SMALL = {"resnet18": (32, 4, 4)}


def main() -> None:
    """Prints images/s of both ways, the median ratio, and the memory that each took at most."""
    parser = record.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="pairs of processes")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "NETWORK"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    cases = SMALL if options.smoke else CASES
    if options.one:
        print(json.dumps(measure(options.one[0] == "kept", options.one[1], *cases[options.one[1]])))
        return
    options.rounds = 1 if options.smoke else options.rounds
    figures = {name: compare(name, options.rounds, options.smoke) for name in cases}
    record.save(
        options.json, figures, precision=choose_compute("cpu").precision, rounds=options.rounds
    )


def compare(name: str, rounds: int, smoke: bool) -> dict[str, Any]:
    """Both ways in turns, each in a process of its own."""
    by_way: dict[str, list[dict[str, float]]] = {"kept": [], "default": []}
    for _ in range(rounds):
        for way, results in by_way.items():
            results.append(in_own_process(way, name, smoke))
    figures: dict[str, Any] = {}
    for job in ("training", "scoring"):
        figures[job] = report(
            name, job, *([result[job] for result in results] for results in by_way.values())
        )
    most = {way: max(result["gib"] for result in results) for way, results in by_way.items()}
    print(
        f"{name}: at most {most['kept']:.2f} GiB kept, {most['default']:.2f} by default", flush=True
    )
    return figures | {"gib": most}


def in_own_process(way: str, name: str, smoke: bool) -> dict[str, float]:
    """What `measure` gives there."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.heap",
        "--one",
        way,
        name,
        *(["--smoke"] if smoke else []),
    ]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def report(name: str, job: str, kept: list[float], default: list[float]) -> dict[str, Any]:
    """Prints the median of the rounds' ratios."""
    ratios = [one / two for one, two in zip(kept, default, strict=True)]
    rates = f"{statistics.median(kept):.1f} and {statistics.median(default):.1f} images/s"
    median = f"{statistics.median(ratios):.2f} of {[round(r, 2) for r in ratios]}"
    print(f"{name}, {job}: kept / default {median} ({rates})", flush=True)
    return {
        name: record.over_rounds(values)
        for name, values in (("kept", kept), ("default", default), ("ratio", ratios))
    }


def measure(kept: bool, name: str, side: int, batch: int, scored: int) -> dict[str, float]:
    """Images/s of training and of scoring, and the most memory."""
    if kept:
        keep_memory()
    compute, network = (
        choose_compute("cpu"),
        build(name, 1000).to(memory_format=torch.channels_last),
    )
    labels = torch.randint(1000, (batch,))
    learner = Learner(
        network, Stage1Config(backbone=name), compute, lr=1e-4, schedule=Schedule(100, 0)
    )
    training = batch / seconds(partial(learner.step, [(photos(batch, side), labels)]))
    network.eval()
    with ThreadPoolExecutor(cores(), initializer=one_thread) as lanes:
        inputs = [photos(scored, side)] * 2 * cores()
        scoring = (
            len(inputs)
            * scored
            / seconds(lambda: list(lanes.map(partial(features, network), inputs)))
        )
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"training": training, "scoring": scoring, "gib": gib}


def photos(count: int, side: int) -> torch.Tensor:
    """A drawn batch."""
    return torch.rand(count, 3, side, side).contiguous(memory_format=torch.channels_last)


def features(network: Network, inputs: torch.Tensor) -> None:
    """A batch's features."""
    with torch.inference_mode():
        network.features(inputs)


def seconds(run: Callable[[], object], times: int = 3) -> float:
    """The median of some runs after one that warms up."""
    taken = []
    for _ in range(times + 1):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


if __name__ == "__main__":
    main()
