"""The loader, from the store to model-ready batches, against torchvision's ImageFolder with Pillow,
torchvision.io and SPDL on the same photos, one core.

Claims: at least 2 times as fast as ImageFolder at the photos' own 180 px, 3 times resized to 224 (a
goal), 4 times at 64 px; at own size 85% of the JPEG decoder alone at 180 px, 80% at 64 px. Photos
of 180 px go to 90 px as a whole and scaled by the decoder (`stage1.decode`). Then with a cold cache
and room for a part of the store only: all shuffled, and in blocks. All give normalised float32
batches of 64 in random order (beside the decoder ours gives uint8, as a device gets them); the
decoder alone gives arrays. SPDL (packages spdl, spdl-io) needs FFmpeg's libraries; without it
that side is left out. Times are the processor's, so that other work beside it does not count, but
for the cold cache the clock's. Memory is kept from batch to batch for all sides, as in training.
Takes turns; the median ratio counts. Run: OMP_NUM_THREADS=1 python -m benchmarks.loader [--photos
N] [--rounds N] [--smoke]
"""

import argparse
import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from torch.utils.data import DataLoader, Subset
from torchvision import io
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks import record
from benchmarks.photos import write_folders, write_store
from catalog.image_table import ImageTable
from catalog.store.reader import Store
from stage1_cnn.config import Stage1Config
from stage1_cnn.dataset import batches
from stage1_cnn.device import keep_memory
from stage1_cnn.networks.architectures import IMAGENET
from stage1_cnn.sampler import Sampler
from stage1_cnn.transforms import EvalTransform, Normaliser

BATCH, BLOCK = 64, 64
OF_DECODER = {180: 0.85, 64: 0.80}
"""Pixels of the photos -> claimed share of the decoder's rate."""
_, MEAN, STD = IMAGENET


def main() -> None:
    """Prints photos/s of both sides, and the median ratios."""
    parser = record.parser(__doc__)
    parser.add_argument(
        "--photos", type=int, default=3000, help="products drawn; about as many training photos"
    )
    parser.add_argument("--rounds", type=int, default=5, help="pairs of runs of each size")
    parser.add_argument(
        "--room", type=float, default=0.25, help="share of the store that the limited cache holds"
    )
    options = parser.parse_args()
    if options.smoke:
        options.photos, options.rounds = 60, 1
    torch.set_num_threads(1)
    keep_memory()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = ((180, 180, 2), (180, 224, 3), (64, 64, 4), (180, 90, 3))
        figures = {
            f"{own} to {size}": sized(folder / str(own), own, size, goal, options)
            for own, size, goal in sizes
        }
        figures["cold"] = cold(folder / "180", options.rounds, options.room)
    record.save(options.json, figures, precision="fp32", rounds=options.rounds)


def sized(
    folder: Path, own: int, size: int, goal: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Photos of `own` pixels in batches of `size`: ratios, and photos a second."""
    fresh = not folder.exists()
    store = (
        write_store(folder, products=options.photos, side=own)
        if fresh
        else Store(folder / "store.sqlite")
    )
    table = store.images("train")
    files = write_folders(store, table, folder / "files") if fresh else folder / "files"
    sides = readers(store, table, files, own, size)
    rates = in_turns(sides, len(table), options.rounds)
    title = f"{own} px photos to {size} px, ours / ImageFolder"
    figures = {
        "over_folder": ratio(title, rates["ours"], rates["ImageFolder"], f"claim {goal}"),
        "claim": goal,
    }
    print(
        f"{own} px photos to {size} px, as a GPU gets them: "
        f"{statistics.median(rates['uint8']):.0f} photos/s",
        flush=True,
    )
    for name, other in {"torchvision": "torchvision.io", "spdl": "SPDL"}.items():
        if other in sides:
            title = f"{own} px photos to {size} px, ours / {other}"
            figures[f"over_{name}"] = ratio(title, rates["ours"], rates[other], "")
    if "scaled" in sides:
        title = f"{own} px photos to {size} px, scaled by the decoder / as a whole"
        figures["scaled_over_whole"] = ratio(title, rates["scaled"], rates["uint8"], "")
    if size == own:
        title, least = f"{own} px photos, ours / decoder alone", OF_DECODER[own]
        claim = f"claim {least}"
        figures["of_decoder"] = ratio(title, rates["uint8"], rates["decoder"], claim)
        figures["of_decoder_claim"] = least
    return figures | {
        "photos_per_second": {side: record.over_rounds(values) for side, values in rates.items()}
    }


def readers(
    store: Store, table: ImageTable, files: Path, own: int, size: int
) -> dict[str, Callable[[], int]]:
    """By name, each way to read photos of `own` pixels in batches of `size`, once."""
    resized = size if size != own else None
    sides = {
        "ours": lambda: ours(store, table, size),
        "ImageFolder": lambda: theirs(files, resized),
        "uint8": lambda: ours(store, table, size, normalised=False),
        "torchvision.io": lambda: from_files(files, size, torchvision_batch),
    }
    if spdl_works(files):
        sides["SPDL"] = lambda: from_files(files, size, spdl_batch)
    if size <= own // 2:
        sides["scaled"] = lambda: ours(store, table, size, normalised=False, scaled=True)
    if size == own:
        blobs = store.read(table.image_id)  # reading them is not timed
        sides["decoder"] = lambda: decoder(blobs)
    return sides


def cold(folder: Path, rounds: int, cached_share: float) -> dict[str, Any]:
    """The three orders of reading, the page cache emptied whenever it may hold `cached_share`
    of the photos."""
    store, files = Store(folder / "store.sqlite"), folder / "files"
    table, least = store.images("train"), max(1, round(1 / cached_share))
    config = Stage1Config(shuffle_block=BLOCK)
    blocks = Sampler(table.class_index, table.image_id, config).order(np.random.default_rng(0))
    mixed = np.random.default_rng(0).permutation(len(table))

    def limited(
        read: Callable[[np.ndarray], Iterable], order: np.ndarray, paths: list[Path]
    ) -> int:
        images = 0
        for samples in np.array_split(order, least):
            evict(paths)
            images += sum(len(batch) for batch in read(samples))
        return images

    jpegs = sorted(files.rglob("*.jpg"))
    sides = {
        "blocks": lambda: limited(
            lambda samples: stored(copy.copy(store), table, 180, samples), blocks, [store.path]
        ),
        "shuffled": lambda: limited(
            lambda samples: stored(copy.copy(store), table, 180, samples), mixed, [store.path]
        ),
        "ImageFolder": lambda: limited(
            lambda samples: foldered(files, None, samples), mixed, jpegs
        ),
    }
    rates = in_turns(sides, len(table), rounds, time.perf_counter)
    title = f"cold cache that holds {cached_share:.0%} of the photos, 180 px"
    blocked = ratio(
        f"{title}, blocks of {BLOCK} / ImageFolder", rates["blocks"], rates["ImageFolder"], ""
    )
    shuffled = ratio(
        f"{title}, shuffled / ImageFolder", rates["shuffled"], rates["ImageFolder"], ""
    )
    return {"room": cached_share, "blocks_over_folder": blocked, "shuffled_over_folder": shuffled}


def evict(paths: Iterable[Path]) -> None:
    """Drops files from the page cache; no process may have them mapped."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def ours(
    store: Store, table: ImageTable, size: int, normalised: bool = True, scaled: bool = False
) -> int:
    """Photos of one pass through the project's loader."""
    order = np.random.default_rng(0).permutation(len(table))
    return sum(len(batch) for batch in stored(store, table, size, order, normalised, scaled))


def stored(
    store: Store,
    table: ImageTable,
    size: int,
    order: np.ndarray,
    normalised: bool = True,
    scaled: bool = False,
) -> Iterable[torch.Tensor]:
    """Batches from the store."""
    transform = EvalTransform(size, size, MEAN, STD, least=(size, size) if scaled else None)
    normaliser = Normaliser(transform, torch.device("cpu"))
    for batch in batches(store, table, transform, batch_size=BATCH, order=order):
        yield normaliser(batch.pixels) if normalised else batch.pixels


def theirs(files: Path, size: int | None) -> int:
    """Photos of one pass through torchvision's; resized where `size` is given."""
    count = sum(1 for _ in files.rglob("*.jpg"))
    return sum(
        len(batch) for batch in foldered(files, size, np.random.default_rng(0).permutation(count))
    )


def foldered(files: Path, size: int | None, order: np.ndarray) -> Iterable[torch.Tensor]:
    """Normalised batches from files."""
    resize = [v2.Resize((size, size))] if size else []
    steps = [
        *resize,
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, STD),
    ]
    data = Subset(ImageFolder(files, v2.Compose(steps)), order.tolist())
    for images, _ in DataLoader(data, BATCH, num_workers=0):
        yield images


def from_files(files: Path, size: int, read: Callable[[list[str], int], torch.Tensor]) -> int:
    """Photos of one pass through another reader of files; normalised as ours."""
    paths = np.array([str(path) for path in sorted(files.rglob("*.jpg"))])
    paths = paths[np.random.default_rng(0).permutation(len(paths))]
    normaliser = Normaliser(EvalTransform(size, size, MEAN, STD), torch.device("cpu"))
    batches = (paths[start : start + BATCH].tolist() for start in range(0, len(paths), BATCH))
    return sum(len(normaliser(read(batch, size))) for batch in batches)


def torchvision_batch(paths: list[str], size: int) -> torch.Tensor:
    """uint8 [B, 3, H, W] by torchvision.io."""
    photos = [io.decode_jpeg(io.read_file(path), io.ImageReadMode.RGB) for path in paths]
    return torch.stack([v2.functional.resize(photo, [size, size]) for photo in photos])


def spdl_batch(paths: list[str], size: int) -> torch.Tensor:
    """uint8 [B, 3, H, W] by SPDL."""
    import spdl.io

    batch = spdl.io.load_image_batch(paths, width=size, height=size, pix_fmt="rgb24")
    return torch.from_numpy(spdl.io.to_numpy(batch)).permute(0, 3, 1, 2)


def spdl_works(files: Path) -> bool:
    """Whether SPDL and FFmpeg's libraries are there."""
    try:
        spdl_batch([str(next(files.rglob("*.jpg")))], 8)
    except (ImportError, RuntimeError):
        return False
    return True


def decoder(blobs: Sequence[bytes]) -> int:
    """Photos decoded from memory, and nothing else."""
    for blob in blobs:
        simplejpeg.decode_jpeg(blob, colorspace="RGB")
    return len(blobs)


def in_turns(
    sides: dict[str, Callable[[], int]],
    photos: int,
    rounds: int,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """Photos per second of each side, a number a round; the first pass of each warms up."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            started = clock()
            count = run()
            seconds = clock() - started
            if count != photos:
                raise SystemExit(f"{name} read {count} photos, expected {photos}")
            if number:
                rates[name].append(count / seconds)
    return rates


def ratio(title: str, ours_rates: list[float], other: list[float], goal: str) -> dict[str, Any]:
    """Prints the median of the rounds' ratios."""
    ratios = [one / two for one, two in zip(ours_rates, other, strict=True)]
    rates = f"{statistics.median(ours_rates):.0f} and {statistics.median(other):.0f} photos/s"
    median = f"{statistics.median(ratios):.2f} of {[round(r, 2) for r in ratios]}"
    print(f"{title}: {median} ({rates}; {goal or 'no claim'})", flush=True)
    return record.over_rounds(ratios)


if __name__ == "__main__":
    main()
