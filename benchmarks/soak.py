"""Scoring in a loop, with 1% bad input: memory and open files don't grow.

Claim: after the first tenth of the time neither the resident memory grows by more than 5% nor the
number of open files at all. Run: python -m benchmarks.soak [--minutes 20] [--smoke]
"""

import tempfile
import time
from pathlib import Path

import bson
import psutil

from benchmarks import record
from benchmarks.scoring import make_run
from catalog.artifacts import sha256_file
from catalog.parallel import cores
from catalog.sources.source import open_source
from catalog.synthetic.dump import SyntheticSpec, products
from pipeline.config import ScoreConfig
from pipeline.model import TwoStageModel
from pipeline.scoring.lanes import Lanes
from pipeline.scoring.plan import DecisionInputs
from pipeline.scoring.score import Scorer, score_source

BAD = (b"", b"no image", b"\xff\xd8\xff broken")
GROWTH = 0.05


def main() -> None:
    """Prints memory and open files as time goes by, and what they grew by."""
    parser = record.parser(__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument(
        "--products",
        type=int,
        default=2000,
        help="products of the dump, which is scored again and again",
    )
    options = parser.parse_args()
    if options.smoke:
        options.minutes, options.products = 0.05, 200
    with tempfile.TemporaryDirectory() as name:
        soak(Path(name), options.minutes * 60, options.products, options.json)


def soak(folder: Path, seconds: float, count: int, json: Path | None) -> None:
    """Scores the same dump with the same model until the time is over, each time into a new folder;
    figures go to `json`."""
    run = make_run(folder, "shufflenet_v2_x0_5", 32, 32)
    dump, model = write_dump(folder / "dump.bson", count), TwoStageModel.open(run)
    process = psutil.Process()
    checksums, inputs = {"checkpoint": sha256_file(run.checkpoint)}, DecisionInputs(model.taxonomy)
    scorer = Scorer(Lanes(model, cores()), checksums, 0, run.store.digests(), inputs)
    started = time.monotonic()
    seen: list[tuple[float, int, int]] = []
    while not seen or seen[-1][0] < seconds:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            totals, _ = score_source(
                scorer, open_source([dump], Path(out) / "dumps"), Path(out), ScoreConfig(part_mb=1)
            )
        handles = process.num_fds() + process.num_threads()
        seen.append((time.monotonic() - started, process.memory_info().rss, handles))
    for at, memory, handles in seen[:: max(1, len(seen) // 10)]:
        print(f"{at:6.0f} s: {memory / 2**20:.1f} MiB, {handles} open files and threads")
    settled = next(number for number, round in enumerate(seen) if round[0] >= 0.1 * seen[-1][0])
    growth = seen[-1][1] / seen[settled][1] - 1
    handles = seen[-1][2] - seen[settled][2]
    share = totals.rejected_products / totals.products
    title = f"{len(seen)} rounds of {totals.products} products, {share:.1%} bad"
    print(f"{title}: memory {growth:+.1%}, open files and threads {handles:+d}")
    figures = {
        "minutes": seconds / 60,
        "products": totals.products,
        "bad": share,
        "memory_growth": growth,
        "handles_growth": handles,
        "memory_mb": [seen[settled][1] / 2**20, seen[-1][1] / 2**20],
    }
    record.save(json, figures, precision=model.network.compute.precision, rounds=len(seen))
    if seconds >= 60 and (growth > GROWTH or handles > 0):  # a few rounds only begin to settle
        raise SystemExit("not flat")


def write_dump(path: Path, count: int) -> Path:
    """A dump in which every hundredth product is damaged: its photo, or its document."""
    some = list(products(SyntheticSpec(categories=8, products=200, side=32, seed=7)))
    with open(path, "wb") as file:
        for number in range(count):
            images = (
                some[number % len(some)]["imgs"]
                if number % 100
                else [{"picture": BAD[number // 100 % 3]}]
            )
            file.write(
                bson.encode({"_id": number if number % 400 else "no number", "imgs": images})
            )
    return path


if __name__ == "__main__":
    main()
