"""What a phase trains on: photos through the whole network, or cached features through the head alone.

Both give the same: pairs of inputs and labels on the device, for training places in given parts and for validation. Of several
processes each has its own share of every step and of the validation rows.
"""

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import torch

from catalog.artifacts import reserve, writing
from catalog.image_table import ImageTable
from catalog.landmarks import Landmarks, read_landmarks
from catalog.progress import progress
from stage1_cnn.backbones import Network
from stage1_cnn.config import Stage1Config
from stage1_cnn.dataset import Batch, Blobs, Transform, in_parts, stream
from stage1_cnn.device import Engine, decode_threads
from stage1_cnn.processes import Processes
from stage1_cnn.sampler import Sampler
from stage1_cnn.train import Pair
from stage1_cnn.transforms import EvalTransform, Moments, Normaliser, TrainTransform

_log = logging.getLogger(__name__)
_MEASURED = 10_000
"""Training photos, evenly spread over the store, that their mean is measured on."""


class Photos:
    """Photos of the store, augmented for training, plain for validation; unreadable ones are left out and counted."""

    def __init__(
        self, store: Blobs, train: ImageTable, val: ImageTable, config: Stage1Config, engine: Engine,
        transform: EvalTransform | None = None,
    ) -> None:  # fmt: skip
        """`transform` is the one of evaluation; where None it follows from the configuration."""
        self.store, self.train, self.val, self.config, self.engine = store, train, val, config, engine
        self.unreadable: set[int] = set()
        measured = transform is None and config.normalisation in ("train_mean", "mean_image")
        self.transform = transform or EvalTransform.from_config(config, self._moments() if measured else None)
        self.fitted = replace(self.transform, height=config.fit_size[0], width=config.fit_size[1])
        self.normaliser = Normaliser(self.transform, engine.device)
        self.sampler = Sampler(train.class_index, train.image_id, config)
        self.landmarks = read_landmarks(config.landmarks) if config.landmarks else None

    def __len__(self) -> int:
        """Training rows."""
        return len(self.train)

    @property
    def steps(self) -> int:
        """Steps an epoch, of whole batches: batch norm suffers from a small rest. Other images are left out every epoch."""
        return max(1, len(self.sampler) // self.config.batch_size)

    def training(self, parts: Iterable[np.ndarray], epoch: int) -> Iterator[Pair]:
        """Pairs of inputs float32 [B, 3, H, W] and labels, and landmarks where there are any, a part each; one without readable
        image is empty."""
        config = self.config
        transform = TrainTransform(self.fitted, config.augment, config.seed, epoch, config.sampling == "levelled")
        return self._pairs(self.train, transform, parts)

    def validation(self) -> Iterator[Pair]:
        """The validation images, in store order."""
        return self._pairs(self.val, self.transform, _share(len(self.val), self.config, self.engine.processes))

    def _pairs(self, table: ImageTable, transform: Transform, parts: Iterable[np.ndarray]) -> Iterator[Pair]:
        with contextlib.closing(self._readable(table, transform, parts)) as found:
            for batch in found:
                pair = self._on_device(table, transform, batch)
                yield pair if self.landmarks is None else (*pair, self._points(self.landmarks, table, transform, batch))

    def _points(self, landmarks: Landmarks, table: ImageTable, transform: Transform, batch: Batch) -> torch.Tensor:
        image_id = table.image_id[batch.rows]
        return torch.from_numpy(transform.points(landmarks.of(image_id), image_id, batch.repeats)).to(self.engine.device)

    def _on_device(self, table: ImageTable, transform: Transform, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        changes = transform.changes(table.image_id[batch.rows], batch.repeats)
        return self.normaliser(batch.pixels, changes), batch.labels.to(self.engine.device, non_blocking=True)

    def batches(
        self, table: ImageTable, transform: Transform, parts: Iterable[np.ndarray]
    ) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor]]:
        """Readable rows of `table` (int64), inputs and labels on the device, a part each."""
        for batch in self._readable(table, transform, parts):
            yield batch.rows, *self._on_device(table, transform, batch)

    def _readable(self, table: ImageTable, transform: Transform, parts: Iterable[np.ndarray]) -> Iterator[Batch]:
        """Batches without their unreadable images, which are noted."""
        workers = decode_threads(self.config.workers, self.engine.device, self.engine.processes.local_size)
        pin = self.engine.device.type == "cuda"
        with contextlib.closing(stream(self.store, table, transform, parts, workers=workers, pin_memory=pin)) as found:
            for batch in found:
                if not batch.reasons:
                    yield batch
                    continue
                self._note(table, batch.reasons)
                kept, whole = batch.readable, torch.from_numpy(batch.readable)
                yield Batch(
                    batch.rows[kept], batch.repeats[kept], batch.pixels[whole], batch.labels[whole], batch.readable[kept], {}
                )

    def _moments(self) -> Moments:
        """Means of training photos, and the deviation from them, at the size that the network sees."""
        plain = EvalTransform(*self.config.size, (0.0,) * 3, (1.0,) * 3)
        rows = np.unique(np.linspace(0, len(self.train) - 1, min(len(self.train), _MEASURED)).astype(np.int64))
        sums, images = torch.zeros(2, 3, *self.config.size, dtype=torch.float64), 0
        for batch in self._readable(self.train, plain, in_parts(rows, self.config.batch_size)):
            values = batch.pixels.double() / 255
            sums += torch.stack([values.sum(0), (values * values).sum(0)])
            images += len(values)
        image, square = sums / max(1, images)
        mean = image.mean((1, 2), keepdim=True).round(decimals=4)
        each = self.config.normalisation == "mean_image"
        variance = (square - (image if each else mean).square()).mean((1, 2))
        deviation = variance.clamp(min=1e-6).sqrt().round(decimals=4)
        return Moments(tuple(mean.flatten().tolist()), tuple(deviation.tolist()), (image - mean).float() if each else None)

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
    `folder`, which vanishes with the process; several processes share such a file, each filling in its share.
    """

    def __init__(self, photos: Photos, network: Network, folder: Path, check: Callable[[], None]) -> None:
        """`check` is called after every batch and may raise."""
        self.config = photos.config
        self.engine = replace(photos.engine, precision="fp32")
        width, processes = network.head.in_features, self.engine.processes
        need = (len(photos.train) + len(photos.val)) * width * 2
        shared = processes.size > 1
        place = folder if shared or need > self.config.cache_gb * 2**30 else None
        network.eval()
        with progress((len(photos.train) + len(photos.val)) // processes.size, "frozen features", "img") as bar:

            def done(images: int) -> None:
                bar.update(images)
                if not shared:
                    check()

            self.train, self.val = (
                _extract(photos, table, network, _allocate(len(table), width, place, processes), done)
                for table in (photos.train, photos.val)
            )
        self.sampler = Sampler(self.train.labels[self.train.rows], self.train.rows, self.config)

    def __len__(self) -> int:
        """Training rows."""
        return len(self.train.rows)

    @property
    def steps(self) -> int:
        """Steps an epoch, the last one may be smaller."""
        return -(-len(self.sampler) // self.config.batch_size)

    def training(self, parts: Iterable[np.ndarray], epoch: int) -> Iterator[Pair]:
        """Pairs of features float32 [B, D] and labels, a part each; repeats are all alike."""
        return self._pairs(self.train, (places % max(1, len(self)) for places in parts))

    def validation(self) -> Iterator[Pair]:
        """The validation images, in store order."""
        return self._pairs(self.val, _share(len(self.val.rows), self.config, self.engine.processes))

    def _pairs(self, cached: Cached, parts: Iterable[np.ndarray]) -> Iterator[Pair]:
        device = self.engine.device
        for part in parts:
            rows = cached.rows[part]
            features = torch.from_numpy(cached.features[rows]).to(device)
            yield features.float(), torch.from_numpy(cached.labels[rows]).to(device)


def _share(rows: int, config: Stage1Config, processes: Processes) -> Iterator[np.ndarray]:
    """This process's share of `rows`, in order, in parts of a batch."""
    own = np.array_split(np.arange(rows), processes.size)[processes.rank]
    return in_parts(own, max(1, config.batch_size // processes.size))


def _allocate(rows: int, width: int, folder: Path | None, processes: Processes) -> np.ndarray:
    """Room for features float16 [rows, width]. Raises ShelfsortError where the disk has none."""
    if folder is None or rows == 0:
        return np.zeros((rows, width), dtype=np.float16)
    folder.mkdir(parents=True, exist_ok=True)
    if processes.size == 1:
        with writing(folder), tempfile.TemporaryFile(dir=folder) as file:
            return _mapped(file, rows, width)
    path = folder / ".frozen.tmp"
    if processes.writes:
        _make(path, rows, width)
    processes.wait()
    shared = np.memmap(path, dtype=np.float16, mode="r+", shape=(rows, width))
    processes.wait()
    if processes.writes:
        path.unlink()
    return shared


def _make(path: Path, rows: int, width: int) -> None:
    with writing(path.parent), open(path, "w+b") as file:
        try:
            _mapped(file, rows, width)
        except OSError:
            path.unlink()
            raise


def _mapped(file: IO[bytes], rows: int, width: int) -> np.ndarray:
    reserve(file, rows * width * np.dtype(np.float16).itemsize)
    return np.memmap(file, dtype=np.float16, mode="r+", shape=(rows, width))


def _extract(
    photos: Photos, table: ImageTable, network: Network, out: np.ndarray, done: Callable[[int], None]
) -> Cached:
    processes = photos.engine.processes
    readable = torch.zeros(len(table), dtype=torch.int32)
    parts = _share(len(table), photos.config, processes)
    with torch.inference_mode(), contextlib.closing(photos.batches(table, photos.transform, parts)) as found:
        for rows, inputs, _ in found:
            with photos.engine.autocast():
                features = network.features(inputs)
            out[rows] = features.half().cpu().numpy()
            readable[rows] = 1
            done(len(rows))
    rows = np.flatnonzero(processes.reduce(readable).numpy())  # and so all have written
    return Cached(out, table.class_index.astype(np.int64), rows)
