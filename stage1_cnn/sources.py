"""What a phase trains on: photos through the whole network, or cached features through the head alone.

Both give the same: pairs of inputs and labels on the device, for training rows in a given order and for validation.
"""

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from catalog.progress import progress
from catalog.store import ImageTable
from stage1_cnn.backbones import Network
from stage1_cnn.config import Stage1Config
from stage1_cnn.dataset import Blobs, batches
from stage1_cnn.device import Engine, decode_threads
from stage1_cnn.train import Pair
from stage1_cnn.transforms import EvalTransform, Normaliser, TrainTransform

AnyTransform = EvalTransform | TrainTransform

_log = logging.getLogger(__name__)


class Photos:
    """Photos of the store, augmented for training, plain for validation; unreadable ones are left out and counted."""

    def __init__(self, store: Blobs, train: ImageTable, val: ImageTable, config: Stage1Config, engine: Engine) -> None:
        self.store, self.train, self.val, self.config, self.engine = store, train, val, config, engine
        self.transform = EvalTransform.from_config(config)
        self.normaliser = Normaliser(self.transform, engine.device)
        self.unreadable: set[int] = set()

    def __len__(self) -> int:
        """Training rows."""
        return len(self.train)

    @property
    def steps(self) -> int:
        """Batches an epoch, whole ones: batch norm suffers from a small rest. Other images are left out every epoch."""
        return max(1, len(self) // self.config.batch_size)

    def training(self, order: np.ndarray, epoch: int) -> Iterator[Pair]:
        """Pairs of inputs float32 [B, 3, H, W] and labels, rows in `order`; a batch without readable image is empty."""
        transform = TrainTransform(self.transform, self.config.augment, self.config.seed, epoch)
        return self._pairs(self.train, transform, order)

    def validation(self) -> Iterator[Pair]:
        """The validation images, in store order."""
        return self._pairs(self.val, self.transform, None)

    def _pairs(self, table: ImageTable, transform: AnyTransform, order: np.ndarray | None) -> Iterator[Pair]:
        with contextlib.closing(self.batches(table, transform, order)) as found:
            for _, inputs, labels in found:
                yield inputs, labels

    def batches(
        self, table: ImageTable, transform: AnyTransform, order: np.ndarray | None = None
    ) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor]]:
        """Readable rows of `table` (int64), inputs and labels on the device; in store order where `order` is None."""
        device = self.engine.device
        loader = batches(
            self.store, table, transform, batch_size=self.config.batch_size, order=order,
            workers=decode_threads(self.config.workers, device), pin_memory=device.type == "cuda",
        )  # fmt: skip
        with contextlib.closing(loader) as found:
            for batch in found:
                rows, pixels, labels = batch.rows, batch.pixels, batch.labels
                if batch.reasons:
                    self._note(table, batch.reasons)
                    readable = torch.from_numpy(batch.readable)
                    rows, pixels, labels = rows[batch.readable], pixels[readable], labels[readable]
                inputs = self.normaliser(pixels, transform.colours(table.image_id[rows]))
                yield rows, inputs, labels.to(device, non_blocking=True)

    def _note(self, table: ImageTable, reasons: dict[int, str]) -> None:
        for row, reason in reasons.items():
            image_id = int(table.image_id[row])
            if image_id not in self.unreadable:
                self.unreadable.add(image_id)
                _log.warning("image %d can't be read and is left out: %s", image_id, reason)


@dataclass(frozen=True)
class Cached:
    """Features of the frozen backbone, float16 [N, D], with labels int64 [N], and the rows that are readable."""

    features: np.ndarray
    labels: np.ndarray
    rows: np.ndarray


class CachedFeatures:
    """The frozen backbone's features of all training and validation images, computed once; the head trains on them.

    Features are rounded to float16 as in features.h5. Beyond `cache_gb` they lie in a temporary file without a name in
    `folder`, which vanishes with the process.
    """

    def __init__(self, photos: Photos, network: Network, folder: Path, check: Callable[[], None]) -> None:
        """`check` is called after every batch and may raise."""
        self.config = photos.config
        self.engine = replace(photos.engine, precision="fp32")
        width = network.head.in_features
        need = (len(photos.train) + len(photos.val)) * width * 2
        on_disk = need > self.config.cache_gb * 2**30
        network.eval()
        with progress(len(photos.train) + len(photos.val), "frozen features", "img") as bar:

            def done(images: int) -> None:
                bar.update(images)
                check()

            self.train, self.val = (
                _extract(photos, table, network, _allocate(len(table), width, folder if on_disk else None), done)
                for table in (photos.train, photos.val)
            )

    def __len__(self) -> int:
        """Training rows."""
        return len(self.train.rows)

    @property
    def steps(self) -> int:
        """Batches an epoch, the last one may be smaller."""
        return -(-len(self) // self.config.batch_size)

    def training(self, order: np.ndarray, epoch: int) -> Iterator[Pair]:
        """Pairs of features float32 [B, D] and labels, rows in `order`."""
        return self._pairs(self.train, order)

    def validation(self) -> Iterator[Pair]:
        """The validation images, in store order."""
        return self._pairs(self.val, np.arange(len(self.val.rows)))

    def _pairs(self, cached: Cached, order: np.ndarray) -> Iterator[Pair]:
        device = self.engine.device
        for start in range(0, len(order), self.config.batch_size):
            rows = cached.rows[order[start : start + self.config.batch_size]]
            features = torch.from_numpy(cached.features[rows]).to(device)
            yield features.float(), torch.from_numpy(cached.labels[rows]).to(device)


def _allocate(rows: int, width: int, folder: Path | None) -> np.ndarray:
    if folder is None or rows == 0:
        return np.zeros((rows, width), dtype=np.float16)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, dtype=np.float16, mode="w+", shape=(rows, width))


def _extract(
    photos: Photos, table: ImageTable, network: Network, out: np.ndarray, done: Callable[[int], None]
) -> Cached:
    readable = np.zeros(len(table), dtype=bool)
    with torch.inference_mode(), contextlib.closing(photos.batches(table, photos.transform)) as found:
        for rows, inputs, _ in found:
            with photos.engine.autocast():
                features = network.features(inputs)
            out[rows] = features.half().cpu().numpy()
            readable[rows] = True
            done(len(rows))
    return Cached(out, table.class_index.astype(np.int64), np.flatnonzero(readable))
