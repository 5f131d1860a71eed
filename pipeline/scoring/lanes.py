"""The engine that scores in this process: one reader, and one lane per core that decodes, infers
and refines groups of products.

A lane is a thread with single-threaded arithmetic, so that lanes never wait for each other: while
one decodes another computes, and the reader and the writer run beside both. Groups never cross
partitions and batches never cross groups, so that neither the number of lanes nor the engine
changes a result.

A photo that can't be decoded (`catalog.images.decode` raises ImageError, `TwoStageModel.read` in
pipeline/model.py returns it) becomes a row of the rejects with its reason; its product is answered
from its other photos, and is itself rejected, as `no_readable_image`, if it has none. Workers run
these lanes too; a photo that ends its worker is found by pipeline/scoring/workers.py.
"""

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow
import xxhash

from catalog.arrays import find_rows
from catalog.errors import ImageError
from catalog.image_table import POSITIONS
from catalog.images import lacks_end
from catalog.sources.dump_index import partition
from catalog.sources.photo_list import Photos
from catalog.sources.source import ProductSource
from catalog.store.reader import digest_number
from pipeline.config import ScoreConfig
from pipeline.decisions.heldout import distances, projected
from pipeline.model import TwoStageModel, image_table
from pipeline.scoring.parts import FEATURES, OPINIONS, REJECTS, Part, keyed
from stage1_cnn.device import ordered
from stage2_xgb.items import ItemBlock, likeliest, mean_by_product
from stage2_xgb.refine import Refined

KILLS_WORKER = "kills_worker"
_BATCHES = 4
"""Batches in a group: few, so that memory stays small; several, so that a group's last, smaller
batch costs little."""


@dataclass(frozen=True)
class Task:
    """One partition to be scored. `repeated` bool [N]: products whose id stands earlier in the
    whole source; `compared` bool [N]: those whose features are kept, to compare the source with the
    catalogue; `worker_killers`: rows that killed the workers that touched them, which are rejected
    unread; `codes` [N, M]: of the products' columns if a file of its own has these, else the
    source's columns are read.
    """

    number: int
    source: ProductSource
    repeated: np.ndarray
    compared: np.ndarray
    worker_killers: frozenset[int] = frozenset()
    codes: np.ndarray | None = None

    def groups(self, images: int) -> Iterator[np.ndarray]:
        """The rows to be scored, in groups of about so many images."""
        rows = np.flatnonzero(~self.repeated)
        for start, stop in partition(self.source.n_images[rows], images):
            yield rows[start:stop]

    def photos(self, row: int) -> Photos:
        """The photos of a product."""
        if row in self.worker_killers:
            error = ImageError(
                KILLS_WORKER, "scoring this product alone ended its worker process, twice"
            )
            return [error] * int(self.source.n_images[row])
        return self.source.read(row)

    def text(self, row: int) -> str:
        """The text of a product."""
        return "" if row in self.worker_killers else self.source.text(row)

    def columns(self, row: int, names: Sequence[str]) -> dict[str, Any]:
        """The columns of a product that the source has, by name."""
        if row in self.worker_killers or not names or self.codes is not None:
            return {}
        return dict(zip(names, self.source.columns(row, names), strict=True))

    def read(self, row: int, names: Sequence[str]) -> "ReadProduct":
        """All of a product that is looked at, `names` of its columns among it."""
        return ReadProduct(self.photos(row), self.text(row), self.columns(row, names))

    def empty(self, schema: pyarrow.Schema) -> pyarrow.Table:
        """A table of this schema, with the source's kind of keys, without rows."""
        return keyed(schema, self.source.keys.type).empty_table()

    def reject(self, row: int, position: int, reason: str, detail: str) -> dict[str, Any]:
        """A row of the rejects."""
        path, offset = self.source.location(row, position)
        return {
            "source": path,
            "offset": offset,
            "product_id": self.source.keys[row],
            "position": position,
            "reason": reason,
            "detail": detail,
        }

    def reject_whole(self, row: int) -> dict[str, Any]:
        """A row of the rejects for a product without an answer."""
        if row in self.worker_killers:
            return self.reject(row, -1, KILLS_WORKER, "scoring it ends the worker process")
        return self.reject(row, -1, "no_readable_image", "no image of the product can be read")


class ReadProduct(NamedTuple):
    """What a source has of a product: photos, text and columns."""

    photos: Photos
    text: str
    columns: dict[str, Any]


Group = tuple[Task, np.ndarray, list[ReadProduct]]
"""Some rows of a task, and what is read of each."""


class Engine(Protocol):
    """Scores tasks."""

    def __call__(self, tasks: Iterable[Task], config: ScoreConfig) -> Iterator[Part]:
        """One part per task, in any order."""
        ...


@dataclass
class _Scored:
    """What one group gave."""

    opinions: pyarrow.Table
    features: pyarrow.Table
    rejects: list[dict[str, Any]]
    images: int
    repaired: int
    digests: list[int]


class Lanes:
    """The in-process engine: `lanes` threads over one model."""

    def __init__(self, model: TwoStageModel, lanes: int) -> None:
        self.model, self.lanes = model, lanes

    def __call__(self, tasks: Iterable[Task], config: ScoreConfig) -> Iterator[Part]:
        """Parts in the order of the tasks; groups of the next task are under way before a task is
        finished."""
        batch_size = config.batch_size_on(self.model.network.compute.device.type)
        waiting: deque[tuple[Task, int]] = deque()
        names = self.model.columns.names if self.model.columns else ()

        def groups() -> Iterator[Group]:
            for task in tasks:
                rows = list(task.groups(_BATCHES * batch_size))
                waiting.append((task, len(rows)))
                for group in rows:
                    yield task, group, [task.read(row, names) for row in group.tolist()]

        def score(group: Group) -> _Scored:
            return score_group(self.model, group, batch_size, config)

        with contextlib.closing(ordered(score, groups(), self.lanes)) as results:
            done: list[_Scored] = []
            for result in results:
                done.append(result)
                while waiting and len(done) >= waiting[0][1]:
                    task, count = waiting.popleft()
                    yield self._part(task, done[:count], config)
                    done = done[count:]
            for task, _ in waiting:  # without a group
                yield self._part(task, [], config)

    def _part(self, task: Task, scored: list[_Scored], config: ScoreConfig) -> Part:
        again = "a product with this _id stands earlier in the dump"
        rejects = [
            task.reject(row, -1, "duplicate_product", again)
            for row in np.flatnonzero(task.repeated).tolist()
        ]
        rejects += [reject for group in scored for reject in group.rejects]
        opinions = pyarrow.concat_tables(
            [task.empty(OPINIONS), *(group.opinions for group in scored)]
        )
        features = pyarrow.concat_tables(
            [task.empty(FEATURES), *(group.features for group in scored)]
        )
        digests = np.array(
            [digest for group in scored for digest in group.digests], dtype=np.uint64
        )
        return Part(
            task.number,
            len(task.source),
            opinions,
            features if config.features else None,
            pyarrow.Table.from_pylist(rejects, schema=task.empty(REJECTS).schema),
            sum(group.images for group in scored),
            sum(group.repaired for group in scored),
            digests,
            tuple(sorted(self.model.bundle.broken)),
        )


def score_group(
    model: TwoStageModel, group: Group, batch_size: int, config: ScoreConfig
) -> _Scored:
    """Scores one group: predictions and features of its products, and rejects for each photo that
    can't be read and each product without a readable one."""
    task, rows, products = group
    counts = [len(product.photos) for product in products]
    row_of_image = np.repeat(rows, counts).astype(np.int64)
    position = np.concatenate([np.arange(count) for count in counts])
    flat = [photo for product in products for photo in product.photos]
    texts = [product.text for product in products for _ in product.photos]
    if task.codes is None:
        codes = model.encode([product.columns for product in products])
    else:
        codes = task.codes[rows]
    product_id = task.source.product_id[row_of_image]
    table = image_table(product_id * POSITIONS + position, product_id)
    of_images = np.repeat(codes, counts, axis=0)
    images, errors, blank = model.read(flat, table, batch_size, texts, of_images)
    rejects = [
        task.reject(int(row_of_image[i]), int(position[i]), error.reason, error.detail)
        for i, error in sorted(errors.items())
    ]
    answered = np.isin(task.source.product_id[rows], images.product_id)
    rejects += [task.reject_whole(row) for row in rows[~answered].tolist()]
    digests = [
        digest_number(xxhash.xxh3_128_digest(photo))
        for photo in flat
        if not isinstance(photo, ImageError)
    ]
    opinions, features = _answer(model, task, rows, images, blank, config)
    repaired = sum(
        lacks_end(photo)
        for i, photo in enumerate(flat)
        if i not in errors and not isinstance(photo, ImageError)
    )
    return _Scored(opinions, features, rejects, len(images), repaired, digests)


def _answer(
    model: TwoStageModel,
    task: Task,
    rows: np.ndarray,
    images: ItemBlock,
    blank: np.ndarray,
    config: ScoreConfig,
) -> tuple[pyarrow.Table, pyarrow.Table]:
    """Opinions, and features if they are asked for, of the products that have readable `images`."""
    opinions, features = task.empty(OPINIONS), task.empty(FEATURES)
    if not len(images):
        return opinions, features
    result = model.answer(images, "product")
    numbers, compared = task.source.product_id[rows], task.source.product_id[task.compared]
    own = rows[find_rows(numbers, result.pooled.product_id, np.argsort(numbers))]
    keys = pyarrow.array(
        [task.source.keys[row] for row in own.tolist()], opinions.schema.field("product_id").type
    )
    opinions = _opinions(model, images, result, keys, images.product_id[blank], compared)
    return opinions, _features(result.pooled, keys) if config.features else features


def _features(pooled: ItemBlock, keys: pyarrow.Array) -> pyarrow.Table:
    """Stage 1's features, rounded as in features.h5; float32, because Spark has no float16."""
    values = pooled.features[0].astype(np.float16).astype(np.float32)
    return pyarrow.table({"product_id": keys, "features": _lists(values)})


def _opinions(
    model: TwoStageModel,
    images: ItemBlock,
    result: Refined,
    keys: pyarrow.Array,
    blank_products: np.ndarray,
    compared: np.ndarray,
) -> pyarrow.Table:
    pooled, (top_class, log_prob) = result.pooled, likeliest(result.two_stage)
    kept = np.isin(pooled.product_id, compared).tolist()
    z = projected(model.bundle, pooled)
    columns = {
        "product_id": keys,
        "n_images": pooled.n_images,
        "top_class": _lists(top_class),
        "log_prob": _lists(log_prob),
        "stage1_class": pooled.log_probs.argmax(axis=1).astype(np.int32),
        "shifted_class": result.shifted.argmax(axis=1).astype(np.int32),
        "answered_by": result.answered_by,
        "blank": np.isin(pooled.product_id, blank_products),
        "distance": mean_by_product(distances(model.bundle, images)[0], images.product_id),
        "added": _lists(model.added.log_odds(model.bundle, images)),
        "z": [row if keep else None for row, keep in zip(z, kept, strict=True)],
    }
    schema = OPINIONS.set(0, pyarrow.field("product_id", keys.type))
    return pyarrow.table(columns, schema=schema)


def _lists(values: np.ndarray) -> pyarrow.ListArray:
    """A list for each row of values [N, D]."""
    offsets = np.arange(len(values) + 1, dtype=np.int32) * np.int32(values.shape[1])
    return pyarrow.ListArray.from_arrays(pyarrow.array(offsets), pyarrow.array(values.ravel()))
