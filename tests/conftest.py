"""What all tests share: a small synthetic dump and its store, builders of dumps and images, and the
way to outside data.

Some tests read data that isn't part of the project. The environment variable SHELFSORT_TEST_DATA
names a folder that holds

    cdiscount/  train_example.bson and category_names.csv, as Cdiscount published them fashion/
    train.bson, test.bson, test_labels.csv, category_names.csv: catalogue photos, one a product
    photos100/  the same four files: 64 x 64 photos, one to four a product weights/
    mobilenet_v2-imagenet.pth and resnet18-photos50.pth, state dictionaries of torchvision's
    networks

or some of these; the tests of what is absent are skipped and say so.

SHELFSORT_TEST_PRECISION, `bf16` or `fp32`, is what `stage1.precision: auto` trains in during the
tests, whatever this processor has; PyTorch emulates bf16 where it is missing. `make test-bf16` runs
the quick tests with it.
"""

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import bson
import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from catalog.config import CatalogConfig
from catalog.store.ingest import ingest_dump
from catalog.store.reader import Store
from catalog.synthetic.dump import SyntheticSpec, write_categories, write_dump

settings.register_profile(
    "shelfsort", deadline=None, derandomize=True, database=None, max_examples=50
)
settings.load_profile("shelfsort")

PRECISION = os.environ.get("SHELFSORT_TEST_PRECISION", "auto")
"""Of what tests train, unless they are about one: the fixtures ask for it, so that processes of
their own take it as well."""


def pytest_configure() -> None:
    """Has `auto` find a processor with bf16, or one without, if the environment says so."""
    if PRECISION not in ("auto", "bf16", "fp32"):
        raise pytest.UsageError(
            f"SHELFSORT_TEST_PRECISION: expected bf16 or fp32, found {PRECISION!r}"
        )
    if PRECISION != "auto":
        import torch

        torch.cpu._is_avx512_bf16_supported = lambda: PRECISION == "bf16"


def outside_data(name: str) -> Path:
    """The folder (or file) `name` in SHELFSORT_TEST_DATA; skips the test if it is absent."""
    root = os.environ.get("SHELFSORT_TEST_DATA")
    if not root:
        pytest.skip("SHELFSORT_TEST_DATA is not set; tests/conftest.py says what it should name")
    path = Path(root) / name
    if not path.exists():
        pytest.skip(f"{path} is absent")
    return path


@dataclass(frozen=True)
class SmallDump:
    """A synthetic dump on disk."""

    path: Path
    categories: Path
    spec: SyntheticSpec


@pytest.fixture(scope="session")
def small_dump(tmp_path_factory: pytest.TempPathFactory) -> SmallDump:
    """About 120 products of 6 categories, 32 x 32 pixels, with duplicates and blank images."""
    folder = tmp_path_factory.mktemp("small-dump")
    spec = SyntheticSpec(categories=6, products=120, side=32, seed=5, duplicates=0.08, blanks=0.03)
    dump = SmallDump(folder / "train.bson", folder / "category_names.csv", spec)
    write_dump(dump.path, spec)
    write_categories(dump.categories, spec)
    return dump


@pytest.fixture(scope="session")
def small_store(small_dump: SmallDump, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of `small_dump`, without caps. Only to be read."""
    folder = tmp_path_factory.mktemp("small-store")
    path = folder / "store.sqlite"
    ingest_dump(
        path,
        [small_dump.path],
        small_dump.categories,
        CatalogConfig(),
        index_folder=folder / "dumps",
        jobs=1,
    )
    return Store(path)


def jpeg(number: int = 0, side: int = 16, **options: object) -> bytes:
    """A JPEG that no other number has. `options` go to Pillow (`quality`, `progressive`, `exif`
    ...)."""
    coarse = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BILINEAR).save(
        out, "JPEG", **options
    )
    return out.getvalue()


def document(
    product_id: object,
    category_id: object = 1,
    images: Iterable[bytes] | None = None,
    **fields: object,
) -> dict:
    """A product as a dump holds it: with one image of its own unless `images` are given, and any
    other `fields`."""
    images = [jpeg(int(product_id))] if images is None else images  # type: ignore[call-overload]
    return {
        "_id": product_id,
        "category_id": category_id,
        "imgs": [{"picture": data} for data in images],
        **fields,
    }


def write_bson(path: Path, documents: Iterable[dict | bytes]) -> Path:
    """Writes a dump: documents, or bytes in place of one. Returns `path`."""
    path.write_bytes(b"".join(d if isinstance(d, bytes) else bson.encode(d) for d in documents))
    return path


def on_two_sides(store: Store) -> dict[str, int]:
    """Products, and pictures that may be fitted, which stand on more than one side. Every store
    should have none.

    The two halves of validation count as two sides.
    """
    queries = {
        "products": "SELECT product_id FROM images GROUP BY 1 HAVING count(DISTINCT split) > 1",
        "pictures": (
            "SELECT digest FROM images WHERE status = 'ok' GROUP "
            "BY 1 HAVING count(DISTINCT split) > 1"
        ),
        "strays": (
            "SELECT 1 FROM images JOIN products USING (product_id) "
            "WHERE images.split != products.split"
        ),
    }
    return {
        name: len(store.connection.execute(query).fetchall()) for name, query in queries.items()
    }
