"""An exported run against the run itself in fp32: the same photos, each as a product of its own, and the dump's products.

Claim: the same top-1, probabilities within 1e-3.
Run: python -m benchmarks.export [--of RUN DUMP] [--photos N] [--smoke]; else of a MobileNetV2 at 96 that hardly learnt anything.
"""

import argparse
import importlib
import io
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.scoring import make_dump, make_run
from catalog.images import decode
from pipeline.export import export
from pipeline.predict import Model, image_table
from pipeline.runs import Run
from pipeline.sources import open_source
from stage2_xgb.items import pool

BATCH = 64


def main() -> None:
    """Prints how far apart the two are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", nargs=2, type=Path, metavar=("RUN", "DUMP"), help="a run that is there")
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--smoke", action="store_true", help="small and quick, to see that it works")
    options = parser.parse_args()
    network, photos = (("shufflenet_v2_x0_5", 32), 40) if options.smoke else (("mobilenet_v2", 96), options.photos)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.of:
            run, dump = Run(options.of[0]), options.of[1]
        else:
            run, dump = make_run(folder, *network, 180), make_dump(folder / "dump.bson", photos, 180)
        against(run, dump, photos, folder)


def against(run: Run, dump: Path, count: int, folder: Path) -> None:
    """Exports a run and compares it with that, on `count` photos of a dump."""
    export(run, folder / "model")
    sys.path.insert(0, str(folder / "model"))
    reader = importlib.import_module("reader")
    source = open_source([dump], folder / "dumps")
    products: list[list[bytes]] = []
    while sum(map(len, products)) < count:
        products.append(source.read(len(products)))
    photos = [photo for product in products for photo in product][:count]
    ours, theirs = Model.open(run, "cpu", "fp32"), reader.Model()
    same_pixels(reader, ours, photos)
    compare(theirs, ours, [[photo] for photo in photos], "photos")
    compare(theirs, ours, products, "products")


def same_pixels(reader, ours: Model, photos: Sequence[bytes]) -> None:
    """Whether both decode and resize alike."""
    transform = ours.predictors[0].transform
    differences = []
    for photo in photos:
        mine = transform([decode(photo)])[0].permute(1, 2, 0).numpy()
        theirs = reader.resized(reader.upright(Image.open(io.BytesIO(photo))), transform.width, transform.height)
        differences.append(np.abs(theirs.astype(int) - mine).max())
    print(f"pixels: {np.mean(np.array(differences) == 0):.1%} of photos are the same, most apart {max(differences)} of 255")


def compare(theirs, ours: Model, products: Sequence[Sequence[bytes]], what: str) -> None:
    """Probabilities of both."""
    number = np.repeat(np.arange(len(products)), [len(product) for product in products])
    table = image_table(number, -1 - number)
    images, _, _ = ours.read([photo for product in products for photo in product], table, BATCH)
    mine = np.exp(ours.answer(pool(images, ours.bundle.sharpness), "product").two_stage)
    found = theirs.predict([[Image.open(io.BytesIO(photo)) for photo in product] for product in products], BATCH)
    top1, apart = (found.argmax(axis=1) == mine.argmax(axis=1)).mean(), np.abs(found - mine).max(axis=1)
    near, most = (apart < 1e-3).mean(), apart.max()
    print(f"{len(products)} {what}: the same top-1 {top1:.2%}, within 1e-3 {near:.2%}, most apart {most:.5f}", flush=True)


if __name__ == "__main__":
    main()
