"""How the page carries its data: one block of typed columns and a JSON header, gzipped, in base64.

Base64 has no `<`, so that no name in a dump can end the script element that holds it.
templates/data.js unpacks the block: uint32 length of the header (little endian), the header, blanks
up to a multiple of 8, then the columns, each at a multiple of 8.
"""

import base64
import gzip
import json
import math
from typing import Any

import numpy as np

KINDS = {
    "u1": "Uint8Array",
    "u2": "Uint16Array",
    "u4": "Uint32Array",
    "i4": "Int32Array",
    "f4": "Float32Array",
    "f8": "Float64Array",
}


def pack(values: dict[str, Any], columns: dict[str, np.ndarray]) -> bytes:
    """The block in base64. `values` must be JSON without NaN; columns have a dtype of KINDS."""
    layout, parts, offset = {}, [], 0
    for name, column in columns.items():
        dtype = column.dtype.str[1:]
        data = np.ascontiguousarray(column, dtype="<" + dtype).tobytes()
        layout[name] = {"kind": KINDS[dtype], "offset": offset, "length": len(column)}
        parts.append(data + bytes(-len(data) % 8))
        offset += len(parts[-1])
    header = json.dumps(
        {"values": values, "columns": layout},
        ensure_ascii=False,
        allow_nan=False,
        separators=(",", ":"),
    ).encode()
    header += b" " * (-(4 + len(header)) % 8)
    return base64.b64encode(
        gzip.compress(len(header).to_bytes(4, "little") + header + b"".join(parts), 6, mtime=0)
    )


def unsigned(values: np.ndarray) -> np.ndarray:
    """`values`, none negative, in the narrowest unsigned type."""
    top = int(values.max(initial=0))
    return np.asarray(values).astype(
        np.uint8 if top < 2**8 else np.uint16 if top < 2**16 else np.uint32
    )


def share(values: np.ndarray) -> np.ndarray:
    """Shares from 0 to 1 in steps of 1/1,000, which is all that the page prints of them, uint16;
    NaN becomes 65535. Figures that are counts, or stand in metrics.json as well, are not packed so:
    they would be rounded twice."""
    values = np.asarray(values, dtype=np.float64)
    return np.where(np.isnan(values), 65_535, np.floor(np.nan_to_num(values) * 1000 + 0.5)).astype(
        np.uint16
    )


def plain(value: Any) -> Any:
    """`value` with NaN and infinities replaced by None, at any depth."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
