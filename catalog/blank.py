"""Pictures that show nothing: of products that have others they are left out, in ingest as in
scoring."""

import numpy as np

BLANK_RANGE = 8
"""A picture whose every channel stays within this many of 255 levels shows nothing (JPEG noise on a
constant stays below)."""


def is_blank(pixels: np.ndarray) -> bool:
    """Whether a picture, uint8 [H, W, 3], is near-constant."""
    sample = pixels[:: max(1, pixels.shape[0] // 8), :: max(1, pixels.shape[1] // 8)]
    if (
        int(np.ptp(sample, axis=(0, 1)).max()) > BLANK_RANGE
    ):  # most pictures are told from blank by a few of their pixels
        return False
    return int(np.ptp(pixels, axis=(0, 1)).max()) <= BLANK_RANGE


def beside_others(blank: np.ndarray, product_id: np.ndarray) -> np.ndarray:
    """Which of the `blank` images, bool [N], belong to a product, int64 [N], that has another one:
    they are no evidence."""
    return blank & np.isin(product_id, product_id[~blank])
