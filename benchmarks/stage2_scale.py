"""Stage 2 at full size: 5,270 categories with the real long tail and features of 2,048 dimensions.

Goal: everything fitted, trained and gated in 10 minutes on two cores and 8 GB, reading the features
included, also with what the cap of train cut (--extra); the bundle is at most 1 GB, opens in under
2 s and refines 10,000 images a second when warm. Run: python -m benchmarks.stage2_scale [--smoke]
"""

import argparse
import contextlib
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks import catalogue, record
from features.store import FeatureStore
from stage1_cnn.device import ordered
from stage2_xgb.bundle import Bundle
from stage2_xgb.config import Stage2Config
from stage2_xgb.dataset import Views
from stage2_xgb.expert_rows import FITTED
from stage2_xgb.fit import fit_stage2
from stage2_xgb.inputs import ClassMixes
from stage2_xgb.items import ItemBlock
from stage2_xgb.refine import refine

GROUP = 512
"""Images that a lane takes at once, as in scoring on a processor: four batches."""


def main() -> None:
    """Prints the time of each part, the peak memory of training, the bundle's size and speed."""
    parser = record.parser(__doc__)
    parser.add_argument("--categories", type=int, default=5270)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--cap", type=int, default=300, help="training photos of a category")
    parser.add_argument(
        "--extra", type=int, default=0, help="photos of a category that this cap cut, at most"
    )
    parser.add_argument("--images", type=int, default=100_000, help="images to refine")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--folder",
        type=Path,
        help="where the generated features (6 GB) and the bundle go, and stay",
    )
    options = parser.parse_args()
    if options.smoke:
        options.categories, options.width, options.cap, options.images = 20, 64, 40, 500
        options.extra = 60
    with tempfile.TemporaryDirectory() as temporary:
        figures = measure(options.folder or Path(temporary), options)
    record.save(options.json, figures)


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Generates what is missing, trains, and refines."""
    name = f"features-{options.categories}x{options.width}-{options.cap}+{options.extra}.h5"
    features, out = folder / name, folder / "stage2"
    started = time.perf_counter()
    counts = catalogue.counts(options.categories, options.cap)
    if not features.exists():
        sizes = {name: getattr(options, name) for name in ("categories", "width", "cap", "extra")}
        catalogue.write(features, **sizes)
    images, views = len(FeatureStore(features)), Views([FeatureStore(features)])
    print(f"generated: {images} images in {time.perf_counter() - started:.0f} s", flush=True)
    started = time.perf_counter()
    with Usage() as usage:
        mixes = ClassMixes({"image": counts, "product": counts}, np.minimum(counts, options.cap))
        taxonomy = catalogue.taxonomy(options.categories)
        summary = fit_stage2(
            [FeatureStore(features)], mixes, taxonomy, Stage2Config(), out, {}, options.jobs
        )
    print(summary.text())
    seconds = time.perf_counter() - started
    print(
        f"trained in {seconds:.0f} s, {usage.processor_seconds:.0f} s of all processors; "
        f"peak memory of all processes {usage.bytes / 2**30:.1f} GiB",
        flush=True,
    )
    size = bundle_size(out)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        used = process.submit(use, out, features, options.images, options.jobs).result()
    return used | {
        "categories": options.categories,
        "images": images,
        "rows": {split: int(views.fitted(split).sum()) for split in FITTED},
        "width": options.width,
        "models": summary.models,
        "seconds": seconds,
        "parts": summary.seconds,
        "processor_seconds": usage.processor_seconds,
        "peak_gib": usage.bytes / 2**30,
        **size,
    }


def bundle_size(out: Path) -> dict[str, Any]:
    """MiB and number of files."""
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    files = len(list(out.rglob("*")))
    print(f"bundle: {size / 2**20:.0f} MiB in {files} files", flush=True)
    return {"bundle_mib": size / 2**20, "files": files}


def use(out: Path, features: Path, images: int, lanes: int) -> dict[str, Any]:
    """Opens the bundle and refines, in a process that trained nothing, as scoring does."""
    started = time.perf_counter()
    bundle = Bundle.open(out)
    figures: dict[str, Any] = {
        "open_seconds": time.perf_counter() - started,
        "refined_images": images,
        "images_per_second": {},
    }
    print(f"opened in {figures['open_seconds']:.2f} s", flush=True)
    for state in ("cold", "warm"):
        figures["images_per_second"][state] = rate(bundle, features, images, lanes)
        print(f"refine, {state}: {figures['images_per_second'][state]:.0f} images/s", flush=True)
    return figures


class Usage:
    """Highest memory of this process and its workers together, shared pages counted once, and the
    processor time that they took; a context manager."""

    def __enter__(self) -> "Usage":
        self.bytes, self._stop = 0, threading.Event()
        self._seconds, self._before = dict[int, float](), sum(psutil.Process().cpu_times()[:2])
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(1.0):
            used = 0
            for process in (me, *me.children(recursive=True)):
                with contextlib.suppress(psutil.Error):  # one that just ended
                    used += process.memory_full_info().pss
                    self._seconds[process.pid] = sum(process.cpu_times()[:2])
            self.bytes = max(self.bytes, used)

    @property
    def processor_seconds(self) -> float:
        """Of all that were seen, but for a worker's last second."""
        return sum(self._seconds.values()) - self._before

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def rate(bundle: Bundle, features: Path, images: int, lanes: int) -> float:
    """Images of the test split refined a second, in lanes of single-threaded arithmetic as scoring
    has them; reading the features and stage 1's opinion are not counted."""
    done, seconds, blocks = 0, 0.0, []
    for block in _test(features, images):
        blocks.append(block)
        done += len(block)
        if len(blocks) == 8 * lanes or done >= images:
            started = time.perf_counter()
            list(ordered(lambda p: refine(bundle, p, "image"), blocks, lanes))
            seconds += time.perf_counter() - started
            blocks = []
    return done / seconds


def _test(features: Path, images: int) -> Iterator[ItemBlock]:
    """Groups of the test split, over again until there are enough."""
    done = 0
    while done < images:
        for block in Views([FeatureStore(features)]).blocks("test", fit_only=False):
            for start in range(0, len(block), GROUP):
                yield (group := block.rows(slice(start, start + GROUP)))
                if (done := done + len(group)) >= images:
                    return


if __name__ == "__main__":
    main()
