"""Blank images, which show nothing. They are left out if their product has others, in ingest and in
scoring alike."""

import numpy as np

BLANK_RANGE = 8
"""Of 255 levels. An image is blank if every channel stays within this range; JPEG noise on a
constant image does."""


def is_blank(pixels: np.ndarray) -> bool:
    """Whether an image, uint8 [H, W, 3], is nearly constant."""
    # A few pixels tell most images from blank ones.
    sample = pixels[:: max(1, pixels.shape[0] // 8), :: max(1, pixels.shape[1] // 8)]
    if int(np.ptp(sample.reshape(-1, 3), axis=0).max()) > BLANK_RANGE:
        return False
    return int(np.ptp(pixels, axis=(0, 1)).max()) <= BLANK_RANGE


def beside_others(blank: np.ndarray, product_id: np.ndarray) -> np.ndarray:
    """Which of the `blank` images, bool [N], have a product (`product_id`, int64 [N]) with an image
    that is not blank, bool [N]. They are no evidence."""
    return blank & np.isin(product_id, product_id[~blank])
