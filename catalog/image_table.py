"""Images as arrays: their ids, and what the store, the features and stage 2 say of each one."""

from dataclasses import dataclass, fields

import numpy as np

from catalog.splits import SPLITS

POSITIONS = 2**14
"""image id = product id * POSITIONS + position of the image in its product."""
MAX_PRODUCT_ID = 2**49 - 1
"""So that every image id fits an int64."""


def image_ids(product_id: np.ndarray, n_images: np.ndarray) -> np.ndarray:
    """Ids int64 of all images of some products, one product after another."""
    position = np.arange(n_images.sum()) - np.repeat(np.cumsum(n_images) - n_images, n_images)
    return np.repeat(product_id, n_images) * POSITIONS + position


@dataclass(frozen=True)
class ImageTable:
    """One row per image, in store order: image_id and product_id int64, class_index int32, split
    uint8 (index into SPLITS), fit bool (may be fitted: no copy of an image that has precedence)."""

    image_id: np.ndarray
    product_id: np.ndarray
    class_index: np.ndarray
    split: np.ndarray
    fit: np.ndarray

    def __len__(self) -> int:
        return len(self.image_id)

    def __getitem__(self, rows: slice | np.ndarray) -> "ImageTable":
        return ImageTable(*(getattr(self, field.name)[rows] for field in fields(self)))

    def on(self, *splits: str) -> np.ndarray:
        """Mask of the images on these splits."""
        return np.isin(self.split, [SPLITS.index(name) for name in splits])
