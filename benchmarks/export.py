"""An exported run against the run itself in fp32: the same photos, each as a product of its own,
and the dump's products.

Claim: the same top-1, probabilities within 1e-3. Run: python -m benchmarks.export [--of RUN DUMP]
[--photos N] [--smoke]; else of a hardly trained MobileNetV2 at 96.
"""

import importlib
import io
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import record
from benchmarks.scoring import make_dump, make_run
from catalog.images import decode
from catalog.sources.source import open_source
from pipeline.exchange.export import export_model
from pipeline.model import TwoStageModel, image_table
from pipeline.run_folder import RunFolder

BATCH = 64


def main() -> None:
    """Prints how far apart the two are."""
    parser = record.parser(__doc__)
    parser.add_argument(
        "--of", nargs=2, type=Path, metavar=("RUN", "DUMP"), help="a run that is there"
    )
    parser.add_argument("--photos", type=int, default=1000)
    options = parser.parse_args()
    network, photos = (
        (("shufflenet_v2_x0_5", 32), 40)
        if options.smoke
        else (("mobilenet_v2", 96), options.photos)
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.of:
            run, dump, name = RunFolder(options.of[0]), options.of[1], options.of[0].name
        else:
            run, dump = (
                make_run(folder, *network, 180),
                make_dump(folder / "dump.bson", photos, 180),
            )
            name = f"{network[0]} at {network[1]}"
        figures = against(run, dump, photos, folder)
    record.save(options.json, {name: figures}, precision="fp32")


def against(run: RunFolder, dump: Path, count: int, folder: Path) -> dict[str, Any]:
    """Exports a run and compares it with that, on `count` photos of a dump; what it prints."""
    export_model(run, folder / "model")
    sys.path.insert(0, str(folder / "model"))
    reader = importlib.import_module("reader")
    source = open_source([dump], folder / "dumps")
    products: list[list[bytes]] = []
    while sum(map(len, products)) < count:
        photos = source.read(len(products))
        products.append([photo for photo in photos if isinstance(photo, bytes)])
    flat = [photo for product in products for photo in product][:count]
    ours, theirs = TwoStageModel.open(run, "cpu", "fp32"), reader.Model()
    return {
        "pixels": same_pixels(reader, ours, flat),
        "photos": compare(theirs, ours, [[photo] for photo in flat], "photos"),
        "products": compare(theirs, ours, products, "products"),
    }


def same_pixels(
    reader: ModuleType, ours: TwoStageModel, photos: Sequence[bytes]
) -> dict[str, float]:
    """Whether both decode and resize alike."""
    transform = ours.network.transform
    differences = []
    for photo in photos:
        own = transform([decode(photo)])[0].permute(1, 2, 0).numpy()
        theirs = reader.resized(
            reader.upright(Image.open(io.BytesIO(photo))), transform.width, transform.height
        )
        differences.append(np.abs(theirs.astype(int) - own).max())
    same, most = float(np.mean(np.array(differences) == 0)), int(max(differences))
    print(f"pixels: {same:.1%} of photos are the same, most apart {most} of 255")
    return {"same": same, "most_apart": most}


def compare(
    theirs: Any, ours: TwoStageModel, products: Sequence[Sequence[bytes]], title: str
) -> dict[str, float]:
    """Probabilities of both."""
    number = np.repeat(np.arange(len(products)), [len(product) for product in products])
    table = image_table(number, -1 - number)
    images, _, _ = ours.read([photo for product in products for photo in product], table, BATCH)
    ours_probabilities = np.exp(ours.answer(images, "product").two_stage)
    their_probabilities = theirs.predict(
        [[Image.open(io.BytesIO(photo)) for photo in product] for product in products], BATCH
    )
    top1, apart = (
        float((their_probabilities.argmax(axis=1) == ours_probabilities.argmax(axis=1)).mean()),
        np.abs(their_probabilities - ours_probabilities).max(axis=1),
    )
    near, most = float((apart < 1e-3).mean()), float(apart.max())
    print(
        f"{len(products)} {title}: the same top-1 {top1:.2%}, within 1e-3 {near:.2%}, "
        f"most apart {most:.5f}",
        flush=True,
    )
    return {"n": len(products), "same_top1": top1, "within_001": near, "most_apart": most}


if __name__ == "__main__":
    main()
