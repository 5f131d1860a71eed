"""Images as arrays: what the store, the features and stage 2 say of each one."""

from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True)
class ImageTable:
    """Images as arrays, a row an image, in store order: image_id and product_id int64, class_index
    int32, split uint8 (index into SPLITS), fit bool (may be fitted: no copy of an image that has
    precedence)."""

    image_id: np.ndarray
    product_id: np.ndarray
    class_index: np.ndarray
    split: np.ndarray
    fit: np.ndarray

    def __len__(self) -> int:
        return len(self.image_id)

    def __getitem__(self, rows: slice | np.ndarray) -> "ImageTable":
        return ImageTable(*(getattr(self, field.name)[rows] for field in fields(self)))
