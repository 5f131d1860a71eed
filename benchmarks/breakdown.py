"""Where a core's time goes while scoring: from the photos of a dump to opinions, in one lane, by
PyTorch and by the fastest runtime.

MobileNetV2 at 96 px on photos of 180x180, both stages, one thread. Times are the processor's, of
the functions named in PARTS, by Python's profiler, whose own cost is in them (some percent). Run:
OMP_NUM_THREADS=1 python -m benchmarks.breakdown [--precision fp32|bf16] [--products N] [--folder
DIR] [--smoke]
"""

import cProfile
import pstats
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record
from benchmarks.scoring import make_dump, make_run
from catalog.arithmetic import one_blas_thread
from catalog.images import decode
from catalog.sources.source import ProductSource, open_source
from pipeline.config import ScoreConfig
from pipeline.model import TwoStageModel
from pipeline.scoring.lanes import Task, score_group
from stage1_cnn.device import one_thread, threads_restored
from stage1_cnn.transforms import EvalTransform

GROUP = 128
"""Images, about, that are scored at once, as a lane does."""


def main() -> None:
    """Prints each part's share of the processor time."""
    parser = record.parser(__doc__)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--products", type=int, default=1500)
    parser.add_argument("--folder", type=Path, help="keep the network here, or use what is there")
    options = parser.parse_args()
    backbone, size = ("shufflenet_v2_x0_5", 32) if options.smoke else ("mobilenet_v2", 96)
    products = 60 if options.smoke else options.products
    figures: dict[str, Any] = {"network": backbone, "pixels": size, "photo_pixels": 180}
    with tempfile.TemporaryDirectory() as name, threads_restored(), one_blas_thread():
        one_thread()
        folder = (options.folder or Path(name)) / f"{backbone}-{options.precision}"
        run = make_run(folder, backbone, size, 180, options.precision)
        source = open_source([make_dump(Path(name) / "dump.bson", products, 180)], Path(name))
        for runtime in ("torch", "auto"):
            model = TwoStageModel.open(run, "cpu", options.precision, runtime)
            profile(model, source, 60)  # memory, caches and kernels are warm
            measured = profile(model, source, products)
            figures[runtime] = measured | {"runtime": model.network.runtime}
            print(line(figures[runtime]), flush=True)
    record.save(options.json, figures, precision=options.precision)


def profile(model: TwoStageModel, source: ProductSource, products: int) -> dict[str, Any]:
    """Images, images per second of processor time, and each part's share of that time."""
    none = np.zeros(len(source), dtype=bool)
    task = Task(0, source, repeated=none, compared=none)
    profiler = cProfile.Profile(time.process_time)
    images = 0
    for rows in task.groups(GROUP):
        if rows[0] >= products:
            break
        profiler.enable()
        read = [task.read(row, ()) for row in rows.tolist()]
        scored = score_group(model, (task, rows, read), GROUP, ScoreConfig())
        profiler.disable()
        images += scored.images
    seconds = {name: _seconds(profiler, function) for name, function in parts(model).items()}
    whole = float(pstats.Stats(profiler).total_tt)  # type: ignore[attr-defined]
    seconds["all else"] = whole - sum(seconds.values())
    shares = {name: spent / whole for name, spent in seconds.items()}
    return {"images": images, "images_per_second": images / whole, "shares": shares}


def parts(model: TwoStageModel) -> dict[str, Callable[..., Any]]:
    """What is told apart, none inside another."""
    return {
        "network": type(model.network).features,
        "decoding": decode,
        "resizing": EvalTransform.__call__,
        "telling blank photos": TwoStageModel._blank,
        "stage 2": TwoStageModel.answer,
        "reading": Task.read,
    }


def _seconds(profiler: cProfile.Profile, function: Callable[..., Any]) -> float:
    """Time in a function and all that it calls."""
    code = function.__code__
    key = code.co_filename, code.co_firstlineno, code.co_name
    stats = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    return float(stats[key][3]) if key in stats else 0.0


def line(measured: dict[str, Any]) -> str:
    """For the terminal."""
    shares = ", ".join(f"{name} {share:.0%}" for name, share in measured["shares"].items())
    return f"{measured['runtime']}: {measured['images_per_second']:.0f} images/s and core: {shares}"


if __name__ == "__main__":
    main()
