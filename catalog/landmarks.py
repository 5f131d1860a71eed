"""Landmarks of photos, as a CSV: product_id, image (its position in the product, from 0), then x1,
y1, v1 ... x8, y8, v8.

x and y are fractions of the photo's width and height, from its upper left corner; v is 1 if the
landmark is visible, else 0.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from catalog.arrays import find_rows
from catalog.artifacts import atomic_path
from catalog.csv_file import CsvFile, whole_number
from catalog.errors import ConfigError
from catalog.image_table import MAX_PRODUCT_ID, POSITIONS

COUNT = 8
HEADER = (
    "product_id",
    "image",
    *(f"{name}{number}" for number in range(1, COUNT + 1) for name in "xyv"),
)


@dataclass(frozen=True)
class Landmarks:
    """`image_id` int64 [N], ascending, and `points` float32 [N, 8, 3]: x, y, and v."""

    image_id: np.ndarray
    points: np.ndarray

    def of(self, image_id: np.ndarray) -> np.ndarray:
        """The points of some images, float32 [B, 8, 3]; all 0 for an image without any."""
        rows = find_rows(self.image_id, image_id)
        out = np.zeros((len(image_id), COUNT, 3), dtype=np.float32)
        out[rows >= 0] = self.points[rows[rows >= 0]]
        return out


def read_landmarks(path: Path) -> Landmarks:
    """Reads the CSV. Raises ConfigError, naming file and line, if the file can't be read or a row
    doesn't have HEADER's form."""
    file = CsvFile(path, ConfigError, "stage1.landmarks")
    ids: list[int] = []
    rows: list[list[float]] = []
    for product, position, *values in file.rows(HEADER):
        try:
            product_id = whole_number(product, MAX_PRODUCT_ID)
            ids.append(product_id * POSITIONS + whole_number(position, POSITIONS - 1))
            rows.append([float(value) for value in values])
        except ValueError as error:
            raise file.fault(str(error)) from error
    image_id = np.array(ids, dtype=np.int64)
    points = np.array(rows, dtype=np.float32).reshape(-1, COUNT, 3)
    order = np.argsort(image_id, kind="stable")
    return Landmarks(image_id[order], points[order])


def write_landmarks(path: Path, rows: Iterable[tuple[int, int, np.ndarray]]) -> None:
    """Writes one row per photo: product id, image and points [8, 3]."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        for product, image, points in rows:
            writer.writerow(
                [product, image, *(f"{value:.4g}" for value in points.ravel().tolist())]
            )
