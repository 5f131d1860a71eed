"""Categories of products from their photos, with nothing but this folder: needs numpy, onnxruntime,
xgboost and Pillow.

Stage 1 is ONNX; `code/` holds the few modules of shelfsort that stage 2 answers with, which need
numpy, scipy (as xgboost does) and xgboost. All files are compared with their sha256 in
manifest.json first.
"""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER / "code"))

from catalog.blank import beside_others, is_blank  # noqa: E402
from catalog.image_table import ImageTable  # noqa: E402
from features.columns import FILE as COLUMNS  # noqa: E402
from features.columns import ColumnEncoder  # noqa: E402
from stage1_cnn.head import Head  # noqa: E402
from stage2_xgb.bundle import Bundle  # noqa: E402
from stage2_xgb.items import ItemBlock  # noqa: E402
from stage2_xgb.refine import refine  # noqa: E402


class Model:
    """Both stages. `categories`: a dictionary each (category_id, level1, level2, level3), in the
    order of the probabilities.

    Raises ValueError if a file of the folder is missing or not the one that was exported.
    """

    def __init__(self, threads: int = 1) -> None:
        manifest = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
        for name, checksum in manifest["files"].items():
            path = FOLDER / name
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != checksum:
                raise ValueError(
                    f"{path}: missing, or its sha256 is not the one in manifest.json; export the "
                    "model again"
                )
        self.categories = json.loads((FOLDER / "taxonomy.json").read_text(encoding="utf-8"))[
            "categories"
        ]
        self.views = manifest["views"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.networks = [
            onnxruntime.InferenceSession(
                FOLDER / view["network"], options, providers=["CPUExecutionProvider"]
            )
            for view in self.views
        ]
        with np.load(FOLDER / "heads.npz", allow_pickle=False) as arrays:
            self.head = Head(arrays["weight_0"], arrays["bias_0"])
        self.stage2 = Bundle.open(FOLDER / "stage2")
        path = FOLDER / COLUMNS
        self.columns = ColumnEncoder.open(path) if path.exists() else ColumnEncoder(())

    def predict(
        self,
        products: Sequence[Sequence[Image.Image]],
        batch_size: int = 8,
        columns: Sequence[Mapping[str, Any]] | None = None,
    ) -> np.ndarray:
        """Probabilities float32 [N, K] of N products, each given by one or more of its photos, and
        by the values of its `columns`, by name, if the model reads any; what one lacks is missing.

        Raises ValueError if a product has no photo, or a column that the model doesn't know.
        """
        if not products:
            return np.zeros((0, len(self.categories)), dtype=np.float32)
        if bare := [number for number, product in enumerate(products) if not product]:
            raise ValueError(
                f"products[{bare[0]}]: expected at least one photo, found none; leave it out"
            )
        photos = [upright(photo) for product in products for photo in product]
        numbers = np.repeat(np.arange(len(products)), [len(product) for product in products])
        blank = np.array(
            [self.stage2.drop_blank and is_blank(np.asarray(photo)) for photo in photos], dtype=bool
        )
        use = ~beside_others(blank, numbers)
        photos, numbers = list(compress(photos, use)), numbers[use]
        features = [self._features(v, photos, batch_size) for v in range(len(self.views))]
        zeros = np.zeros(len(photos), dtype=np.int32)
        table = ImageTable(
            np.arange(len(photos)), numbers, zeros, zeros.astype(np.uint8), zeros.astype(bool)
        )
        codes = self._codes(columns if columns is not None else [{}] * len(products))
        images = ItemBlock.images(table, features, self.head, codes[numbers])
        return np.exp(refine(self.stage2, images, "product").two_stage)

    def _codes(self, products: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Codes float32 [N, M] of the columns of products."""
        names = self.columns.names
        if unknown := {name for product in products for name in product} - set(names):
            raise ValueError(f"columns: expected some of {names}, found {sorted(unknown)[0]}")
        values = {name: [product.get(name) for product in products] for name in names}
        return self.columns.encode(values, len(products))

    def _features(self, view: int, photos: Sequence[Image.Image], batch_size: int) -> np.ndarray:
        size = (self.views[view]["width"], self.views[view]["height"])
        parts = []
        for start in range(0, len(photos), batch_size):
            pixels = [resized(photo, *size) for photo in photos[start : start + batch_size]]
            parts.append(
                self.networks[view]
                .run(["features"], {"pixels": np.stack(pixels)})[0]
                .astype(np.float16)
            )
        return np.concatenate(parts)


def upright(photo: Image.Image) -> Image.Image:
    """As RGB, turned as its EXIF data say, transparent pixels white, 16 bits scaled to 8."""
    photo = ImageOps.exif_transpose(photo)
    if photo.mode.startswith("I"):  # 16-bit gray: Pillow's own conversion clips
        photo = Image.fromarray((np.asarray(photo) >> 8).astype(np.uint8))
    if "A" in photo.mode or "transparency" in photo.info:
        photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo.convert("RGBA"))
    return photo.convert("RGB")


def resized(photo: Image.Image, width: int, height: int) -> np.ndarray:
    """Pixels uint8 [height, width, 3], bilinear with antialiasing: across, then down, each rounded
    to 8 bits. Equal to the bit to what the network was trained with; Pillow's own, whose weights
    have more bits than 16, is a level apart here and there."""
    across = _resampled(np.asarray(photo).swapaxes(0, 1), width)
    return _resampled(across.swapaxes(0, 1), height)


def _resampled(pixels: np.ndarray, size: int) -> np.ndarray:
    """uint8 [N, M, 3] -> [size, M, 3]."""
    scale = len(pixels) / size
    support = max(scale, 1.0)
    centre = scale * (np.arange(size) + 0.5)
    first = np.maximum((centre - support + 0.5).astype(int), 0)
    end = np.minimum((centre + support + 0.5).astype(int), len(pixels))
    taps = first[:, None] + np.arange((end - first).max())
    weights = np.maximum(0, 1 - np.abs((taps - centre[:, None] + 0.5) * (1 / support))) * (
        taps < end[:, None]
    )
    weights /= weights.sum(axis=1, keepdims=True)
    bits = next(bits for bits in range(23) if int(0.5 + weights.max() * 2 ** (bits + 1)) >= 2**15)
    whole = (0.5 + weights * 2**bits).astype(np.int32)
    total = np.full((size, *pixels.shape[1:]), 1 << (bits - 1), dtype=np.int32)
    for tap in range(taps.shape[1]):
        total += whole[:, tap, None, None] * pixels[np.minimum(taps[:, tap], len(pixels) - 1)]
    return np.clip(total >> bits, 0, 255).astype(np.uint8)
