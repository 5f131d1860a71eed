"""What a phase trains on: photos for the whole network, or cached features for the head.

Both yield pairs of inputs and labels on the device: for training, of the sample indices in given
parts; for validation, in store order. Each of several processes has its own share of every step and
of the validation rows.
"""

import contextlib
import logging
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import torch

from catalog.artifacts import reserve, writing
from catalog.image_table import ImageTable
from catalog.landmarks import Landmarks, read_landmarks
from catalog.progress import progress
from stage1_cnn.config import Stage1Config
from stage1_cnn.dataset import Batch, Blobs, Transform, in_parts, stream
from stage1_cnn.device import Compute, decode_threads
from stage1_cnn.networks.backbones import Network
from stage1_cnn.processes import Processes
from stage1_cnn.sampler import Sampler
from stage1_cnn.training.learner import Pair
from stage1_cnn.transforms import EvalTransform, Moments, Normaliser, TrainTransform

_log = logging.getLogger(__name__)
_MEASURED = 10_000
"""Training photos, evenly spread over the store, that their mean is measured on."""


class PhotoInputs:
    """Photos of the store, augmented for training, plain for validation. Unreadable ones are left
    out and counted."""

    def __init__(
        self,
        store: Blobs,
        train: ImageTable,
        val: ImageTable,
        config: Stage1Config,
        compute: Compute,
        transform: EvalTransform | None = None,
    ) -> None:
        """`transform` is the one of evaluation, by default the configuration's."""
        self.store, self.train, self.val = store, train, val
        self.config, self.compute = config, compute
        self.unreadable: set[int] = set()
        measured = transform is None and config.normalisation in ("train_mean", "mean_image")
        self.transform = transform or EvalTransform.from_config(
            config, self._moments() if measured else None
        )
        self.fitted = replace(self.transform, height=config.fit_size[0], width=config.fit_size[1])
        self.normaliser = Normaliser(self.transform, compute.device)
        self.sampler = Sampler(train.class_index, train.image_id, config)
        self.landmarks = read_landmarks(config.landmarks) if config.landmarks else None

    def __len__(self) -> int:
        """Training rows."""
        return len(self.train)

    @property
    def steps(self) -> int:
        """Steps per epoch, of whole batches, as batch norm suffers from a small last one. Each
        epoch leaves out other images."""
        return max(1, len(self.sampler) // self.config.batch_size)

    def training(self, parts: Iterable[np.ndarray], epoch: int) -> Generator[Pair, None, None]:
        """Inputs float32 [B, 3, H, W], labels, and landmarks if there are any, one pair per part;
        empty if no image of a part is readable."""
        config = self.config
        transform = TrainTransform(
            self.fitted, config.augment, config.seed, epoch, config.sampling == "levelled"
        )
        return self._pairs(self.train, transform, parts)

    def validation(self) -> Generator[Pair, None, None]:
        """The validation images, in store order."""
        parts = _share(len(self.val), self.config, self.compute.processes)
        return self._pairs(self.val, self.transform, parts)

    def _pairs(
        self, table: ImageTable, transform: Transform, parts: Iterable[np.ndarray]
    ) -> Generator[Pair, None, None]:
        with contextlib.closing(self._readable(table, transform, parts)) as batches:
            for batch in batches:
                pair = self._on_device(table, transform, batch)
                if self.landmarks is None:
                    yield pair
                else:
                    yield *pair, self._points(self.landmarks, table, transform, batch)

    def _points(
        self, landmarks: Landmarks, table: ImageTable, transform: Transform, batch: Batch
    ) -> torch.Tensor:
        image_id = table.image_id[batch.rows]
        points = transform.points(landmarks.of(image_id), image_id, batch.repeats)
        return torch.from_numpy(points).to(self.compute.device)

    def _on_device(
        self, table: ImageTable, transform: Transform, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        changes = transform.changes(table.image_id[batch.rows], batch.repeats)
        labels = batch.labels.to(self.compute.device, non_blocking=True)
        return self.normaliser(batch.pixels, changes), labels

    def batches(
        self, table: ImageTable, transform: Transform, parts: Iterable[np.ndarray]
    ) -> Generator[tuple[np.ndarray, torch.Tensor, torch.Tensor], None, None]:
        """Readable rows of `table` (int64), inputs and labels on the device, for each part."""
        for batch in self._readable(table, transform, parts):
            yield batch.rows, *self._on_device(table, transform, batch)

    def _readable(
        self, table: ImageTable, transform: Transform, parts: Iterable[np.ndarray]
    ) -> Generator[Batch, None, None]:
        """Batches without their unreadable images, which are logged."""
        workers = decode_threads(
            self.config.workers, self.compute.device, self.compute.processes.local_size
        )
        pin = self.compute.device.type == "cuda"
        batches = stream(self.store, table, transform, parts, workers=workers, pin_memory=pin)
        with contextlib.closing(batches):
            for batch in batches:
                if not batch.reasons:
                    yield batch
                    continue
                self._log_unreadable(table, batch.reasons)
                kept, tensor = batch.readable, torch.from_numpy(batch.readable)
                yield Batch(
                    batch.rows[kept],
                    batch.repeats[kept],
                    batch.pixels[tensor],
                    batch.labels[tensor],
                    batch.readable[kept],
                    {},
                )

    def _moments(self) -> Moments:
        """Mean and standard deviation of training photos, at the size that the network sees."""
        zero, one = (0.0,) * 3, (1.0,) * 3
        plain = EvalTransform(*self.config.size, zero, one, least=self.config.decoded)
        count = min(len(self.train), _MEASURED)
        rows = np.unique(np.linspace(0, len(self.train) - 1, count).astype(np.int64))
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
        return Moments(
            tuple(mean.flatten().tolist()),
            tuple(deviation.tolist()),
            (image - mean).float() if each else None,
        )

    def _log_unreadable(self, table: ImageTable, reasons: dict[int, str]) -> None:
        for row, reason in reasons.items():
            image_id = int(table.image_id[row])
            if image_id not in self.unreadable:
                self.unreadable.add(image_id)
                _log.warning("image %d can't be read and is left out: %s", image_id, reason)


@dataclass(frozen=True)
class Cached:
    """Features of the frozen backbone, float16 [N, D], labels int64 [N], and the readable rows,
    int64."""

    features: np.ndarray
    labels: np.ndarray
    rows: np.ndarray


class CachedFeatures:
    """The frozen backbone's features of all training and validation images, computed once for the
    head to train on.

    They are rounded to float16 as in features.h5. Beyond `cache_gb` they lie in an unnamed
    temporary file in `folder`, which vanishes with the process; several processes share such a
    file, and each computes its share.
    """

    def __init__(
        self, photos: PhotoInputs, network: Network, folder: Path, check: Callable[[], None]
    ) -> None:
        """`check` is called after every batch and may raise."""
        self.config = photos.config
        self.compute = replace(photos.compute, precision="fp32")
        width, processes = network.head.in_features, self.compute.processes
        images = len(photos.train) + len(photos.val)
        shared = processes.size > 1
        in_file = shared or images * width * 2 > self.config.cache_gb * 2**30
        network.eval()
        with progress(images // processes.size, "frozen features", "img") as bar:

            def done(count: int) -> None:
                bar.update(count)
                if not shared:
                    check()

            def extract(table: ImageTable) -> Cached:
                out = _allocate(len(table), width, folder if in_file else None, processes)
                return _extract(photos, table, network, out, done)

            self.train, self.val = extract(photos.train), extract(photos.val)
        self.sampler = Sampler(self.train.labels[self.train.rows], self.train.rows, self.config)

    def __len__(self) -> int:
        """Training rows."""
        return len(self.train.rows)

    @property
    def steps(self) -> int:
        """Steps per epoch; the last one may be smaller."""
        return -(-len(self.sampler) // self.config.batch_size)

    def training(
        self,
        parts: Iterable[np.ndarray],
        _epoch: int,
    ) -> Generator[Pair, None, None]:
        """Features float32 [B, D] and labels, one pair per part; the same in every repeat and
        epoch."""
        return self._pairs(self.train, (samples % max(1, len(self)) for samples in parts))

    def validation(self) -> Generator[Pair, None, None]:
        """The validation images, in store order."""
        return self._pairs(
            self.val, _share(len(self.val.rows), self.config, self.compute.processes)
        )

    def _pairs(self, cached: Cached, parts: Iterable[np.ndarray]) -> Generator[Pair, None, None]:
        device = self.compute.device
        for part in parts:
            rows = cached.rows[part]
            features = torch.from_numpy(cached.features[rows]).to(device)
            yield features.float(), torch.from_numpy(cached.labels[rows]).to(device)


def _share(rows: int, config: Stage1Config, processes: Processes) -> Iterator[np.ndarray]:
    """This process's share of `rows`, in order, in parts of a batch's size."""
    own = np.array_split(np.arange(rows), processes.size)[processes.rank]
    return in_parts(own, max(1, config.batch_size // processes.size))


def _allocate(rows: int, width: int, folder: Path | None, processes: Processes) -> np.ndarray:
    """Memory for features float16 [rows, width], in a file if `folder` is given. Raises
    ShelfsortError if the disk is full."""
    if folder is None or rows == 0:
        return np.zeros((rows, width), dtype=np.float16)
    folder.mkdir(parents=True, exist_ok=True)
    if processes.size == 1:
        with writing(folder), tempfile.TemporaryFile(dir=folder) as file:
            return _mapped(file, rows, width)
    path = folder / ".frozen.tmp"
    if processes.is_main:
        _make(path, rows, width)
    processes.wait()
    shared = np.memmap(path, dtype=np.float16, mode="r+", shape=(rows, width))
    processes.wait()
    if processes.is_main:
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
    photos: PhotoInputs,
    table: ImageTable,
    network: Network,
    out: np.ndarray,
    done: Callable[[int], None],
) -> Cached:
    processes = photos.compute.processes
    readable = torch.zeros(len(table), dtype=torch.int32)
    parts = _share(len(table), photos.config, processes)
    batches = photos.batches(table, photos.transform, parts)
    with torch.inference_mode(), contextlib.closing(batches):
        for rows, inputs, _ in batches:
            with photos.compute.autocast():
                features = network.features(inputs)
            out[rows] = features.half().cpu().numpy()
            readable[rows] = 1
            done(len(rows))
    rows = np.flatnonzero(processes.reduce(readable).numpy())  # after which all have written
    return Cached(out, table.class_index.astype(np.int64), rows)
