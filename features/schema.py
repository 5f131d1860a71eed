"""The format of features.h5: names, dtypes, version. A reader refuses another version."""

import numpy as np

SCHEMA = 1
FEATURE_DTYPE = np.float16

FEATURES, STATUS, SLICES = "features", "status", "slices"
HEAD_WEIGHT, HEAD_BIAS = "head/weight", "head/bias"
ERROR_ID, ERROR_REASON = "errors/image_id", "errors/reason"
REASON = np.dtype("S400")
"""UTF-8 of limited length: HDF5 keeps texts of any length on a heap, which a kill can leave half
written."""
ROW_DTYPES = {
    "image_id": np.int64,
    "product_id": np.int64,
    "class_index": np.int32,
    "split": np.uint8,
    "fit": np.bool_,
}

PENDING, DONE, UNREADABLE = 0, 1, 2
"""Values of `status`."""

NO_NETWORK = {"device": "none", "precision": "fp32", "runtime": "none"}
"""`computed_with` of vectors that no network made."""

CHUNK_BYTES = 256 * 1024


def chunk_rows(width: int) -> int:
    """Rows per chunk: few enough that reading one class reads little else."""
    return max(1, CHUNK_BYTES // (width * FEATURE_DTYPE().itemsize))
