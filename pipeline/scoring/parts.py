"""One part of a scoring: its Parquet files and a sidecar, each written atomically, and how they are
verified later.

Opinions are the model's answers, which take long; predictions are decided on them
(pipeline.scoring.predictions) in seconds, and so are written again instead of verified.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from catalog.artifacts import read_sealed, require_same, sha256_file, write_sealed
from catalog.errors import ArtifactError
from catalog.fetch import UNREACHABLE
from catalog.sources.keys import KeyType
from catalog.tables import write_table

SCHEMA = 5
OPINIONS = pyarrow.schema(
    [
        ("product_id", pyarrow.int64()),
        ("n_images", pyarrow.int32()),
        ("top_class", pyarrow.list_(pyarrow.int32())),
        ("log_prob", pyarrow.list_(pyarrow.float32())),
        ("stage1_class", pyarrow.int32()),
        ("shifted_class", pyarrow.int32()),
        ("answered_by", pyarrow.string()),
        ("blank", pyarrow.bool_()),
        ("distance", pyarrow.float32()),
        ("added", pyarrow.list_(pyarrow.float32())),
        ("z", pyarrow.list_(pyarrow.float32())),
    ]
)
REJECTS = pyarrow.schema(
    [
        ("source", pyarrow.string()),
        ("offset", pyarrow.int64()),
        ("product_id", pyarrow.int64()),
        ("position", pyarrow.int32()),
        ("reason", pyarrow.string()),
        ("detail", pyarrow.string()),
    ]
)

FEATURES = pyarrow.schema(
    [("product_id", pyarrow.int64()), ("features", pyarrow.list_(pyarrow.float32()))]
)


def keyed(schema: pyarrow.Schema, key_type: KeyType) -> pyarrow.Schema:
    """A schema of these tables, with the shop's own keys as `product_id`: int64, or text."""
    index = schema.get_field_index("product_id")
    arrow_type = pyarrow.int64() if key_type == "int" else pyarrow.string()
    return schema.set(index, pyarrow.field("product_id", arrow_type))


@dataclass(frozen=True)
class Part:
    """What scoring one partition gave: opinions, features (None if nobody asked for them),
    rejects, the numbers of readable images and of JPEGs among them that lacked their end
    marker, every image's digest uint64, and the files of stage 2
    that could not be read."""

    number: int
    products: int
    opinions: pyarrow.Table
    features: pyarrow.Table | None
    rejects: pyarrow.Table
    images: int
    repaired: int
    digests: np.ndarray
    broken: tuple[str, ...]


def part_path(out: Path, number: int) -> Path:
    """Where the predictions of a part lie."""
    return out / f"part-{number:05d}.parquet"


def opinions_path(out: Path, number: int) -> Path:
    """Where the opinions of a part lie."""
    return out / f"opinions-{number:05d}.parquet"


def write_part(part: Part, out: Path, origin: dict[str, Any], known: np.ndarray) -> dict[str, Any]:
    """Writes a part, its sidecar last, and returns the sidecar. `known`: digests (uint64, sorted)
    of the run's own images."""
    files = {
        opinions_path(out, part.number): part.opinions,
        out / f"rejects-{part.number:05d}.parquet": part.rejects,
    }
    if part.features is not None:
        files[out / f"features-{part.number:05d}.parquet"] = part.features
    for path, table in files.items():
        write_table(path, table)
    whole = np.asarray(part.rejects["position"]) < 0
    sidecar = {
        "made_from": origin,
        "products": part.products,
        "predictions": len(part.opinions),
        "images": part.images,
        "repaired_images": part.repaired,
        "known_images": int(np.isin(part.digests, known).sum()),
        "rejected_products": int(whole.sum()),
        "rejected_images": int((~whole).sum()),
        "unreachable": part.rejects["reason"].to_pylist().count(UNREACHABLE),
        "broken": list(part.broken),
        "sha256": {path.name: sha256_file(path) for path in files},
    }
    write_sealed(_sidecar(out, part.number), sidecar)
    return sidecar


def _sidecar(out: Path, number: int) -> Path:
    return out / f"part-{number:05d}.json"


def finished(out: Path, number: int, origin: dict[str, Any]) -> dict[str, Any] | None:
    """The sidecar of a finished part; None if there is none yet, a file of it is damaged, or what
    it lacked may exist now: photos that could not be reached, a broken stage 2. Raises
    ArtifactError if it has another origin."""
    path = _sidecar(out, number)
    if not path.exists():
        return None
    try:
        sidecar = read_sealed(path, "score")
    except ArtifactError:
        return None  # a damaged sidecar: the part is scored again
    require_same(path, origin, sidecar["made_from"], "score")
    whole = all(
        (out / name).exists() and sha256_file(out / name) == checksum
        for name, checksum in sidecar["sha256"].items()
    )
    return sidecar if whole and not sidecar["broken"] and not sidecar.get("unreachable") else None


def reject_reasons(out: Path, parts: int) -> tuple[dict[str, int], dict[str, int]]:
    """Why products were rejected, and why single photos: reason -> count, the commonest first."""
    products, photos = Counter[str](), Counter[str]()
    names = [*(f"{number:05d}" for number in range(parts)), "scan"]
    for name in names:
        path = out / f"rejects-{name}.parquet"
        table = pyarrow.parquet.read_table(path, columns=["position", "reason"])
        reasons = table["reason"].to_numpy(zero_copy_only=False)
        whole = table["position"].to_numpy() < 0
        products.update(reasons[whole].tolist())
        photos.update(reasons[~whole].tolist())
    return dict(products.most_common()), dict(photos.most_common())


def answers(out: Path, parts: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The products' keys and category ids, int64 (or keys that are text, objects), of every
    part."""
    for number in range(parts):
        table = pyarrow.parquet.read_table(
            part_path(out, number), columns=["product_id", "category_id"]
        )
        yield table["product_id"].to_numpy(), table["category_id"].to_numpy()
