"""A small real store: four categories that differ by colour, so that a tiny network learns them in
seconds."""

import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torchvision.transforms.v2 import functional as F

from catalog.config import CatalogConfig
from catalog.store.ingest import ingest_dump
from catalog.store.reader import Store
from stage1_cnn.config import Stage1Config
from tests.conftest import PRECISION, document, write_bson

BACKBONE = "mobilenet_v3_small"
"""Small, with batch norm and dropout, so that a lost generator shows."""
COLOURS = ((200, 60, 60), (60, 200, 60), (60, 60, 200), (190, 190, 60))
PRODUCTS = 160


def photo(product: int) -> bytes:
    """A noisy JPEG of 28 x 24 pixels in the colour of the product's category."""
    noise = np.random.default_rng(product).normal(0, 40, (24, 28, 3))
    pixels = (np.array(COLOURS[product % len(COLOURS)]) + noise).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def store_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """store.sqlite of the coloured photos, made by the real ingest."""
    folder = tmp_path_factory.mktemp("stage1")
    dump = write_bson(
        folder / "dump.bson", (document(n, 10 * (n % 4), [photo(n)]) for n in range(PRODUCTS))
    )
    path = folder / "store.sqlite"
    ingest_dump(path, [dump], None, CatalogConfig(), index_folder=folder / "dumps", jobs=1)
    return path


@dataclass
class Cut:
    """A source of images some of which are cut short, as a dump to be scored may hold them."""

    store: Store
    damaged: Collection[int]
    kept: int = 40
    """Bytes."""

    def read(self, image_ids: Sequence[int]) -> list[bytes]:
        """The bytes of some images."""
        found = zip(image_ids, self.store.read(image_ids), strict=True)
        return [data[: self.kept] if image_id in self.damaged else data for image_id, data in found]


@pytest.fixture
def store(store_path: Path) -> Store:
    """The coloured photos."""
    return Store(store_path)


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state_dict of the test backbone as torchvision saves it: random filters, but batch norm
    that has seen the photos."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(7)
        network = torchvision.models.get_model(BACKBONE, num_classes=5).train()
        settle(
            network,
            torch.stack([F.pil_to_tensor(Image.open(io.BytesIO(photo(n)))) for n in range(32)]),
        )
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(network.state_dict(), path)
    return path


def settle(network: nn.Module, pixels: torch.Tensor) -> None:
    """Gives batch norm the statistics of some photos: uint8 [B, 3, H, W]."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain average, whatever came first
    with torch.no_grad():
        network(F.resize(pixels, [32, 32]).float() / 64 - 2)


@pytest.fixture(scope="session")
def config(weights_file: Path) -> Stage1Config:
    """Two short phases on the CPU."""
    return Stage1Config(
        backbone=BACKBONE,
        weights=str(weights_file),
        image_size=32,
        head_epochs=2,
        epochs=2,
        head_lr=1e-2,
        lr=1e-3,
        batch_size=16,
        device="cpu",
        precision=PRECISION,
        workers=1,
    )
