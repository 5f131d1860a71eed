"""The views of stage 2 that are no networks, each made into a features.h5: the products' texts, and
vectors from elsewhere."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from catalog.artifacts import sha256_file
from catalog.image_table import ImageTable
from features.linear_head import fit_head, sample, save_head
from features.schema import FEATURE_DTYPE, SCHEMA
from features.text import TextModel
from features.vectors import VectorFile
from features.writer import discard, write_features
from pipeline.config import FileView, TextView
from pipeline.run_folder import Run
from stage1_cnn.head import Head

Source = tuple[Head, Callable[[ImageTable], np.ndarray]]
"""A view's head, and what gives the vectors float16 [B, D] of some images."""


def text_view(
    part: Run, view: TextView, seed: int, rebuild: bool, say: Callable[[str], None]
) -> None:
    """The store's texts -> text.json, text.npz and features.h5 of a view."""
    store = part.store
    made_from = {
        "store": store.fingerprint,
        "config": view.model_dump(mode="json") | {"seed": seed},
    }
    if rebuild:
        part.text_model.unlink(missing_ok=True)
    if not part.current(part.text_model, made_from, "features"):
        store.verify()
        train = store.images("train")
        train = train[train.fit]  # no text of a product whose photos all have precedence elsewhere
        products, first = np.unique(train.product_id, return_index=True)
        texts, classes = store.texts(products), len(store.taxonomy)
        TextModel.fit(texts, train.class_index[first], classes, view.components, seed).save(
            part.folder, made_from
        )

    def source() -> Source:
        model = TextModel.open(part.folder)
        return model.head, lambda images: model.features(store.texts(images.product_id))

    _write(part, "text", _origin(part, "text", part.text_checksum()), source, rebuild, say)


def file_view(
    part: Run, view: FileView, seed: int, rebuild: bool, say: Callable[[str], None]
) -> None:
    """A file of vectors -> features.h5 of a view, the store's images, and head.npz."""
    with VectorFile(view.file) as vectors:
        origin = _origin(part, "file", sha256_file(view.file))

        def source() -> Source:
            train, classes = part.store.images("train"), len(part.store.taxonomy)
            rows = sample(np.flatnonzero(train.fit), classes, seed)
            head = fit_head(
                vectors.features(train.image_id[rows]), train.class_index[rows], classes
            )
            save_head(part.view_head, head, origin)
            return head, lambda images: vectors.features(images.image_id)

        _write(part, "file", origin, source, rebuild, say)


def _origin(part: Run, kind: str, checksum: str) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        kind: checksum,
        "store": part.store.fingerprint,
        "dtype": FEATURE_DTYPE.__name__,
    }


def _write(
    part: Run,
    kind: str,
    origin: dict[str, Any],
    source: Callable[[], Source],
    rebuild: bool,
    say: Callable[[str], None],
) -> None:
    if rebuild:
        discard(part.features_path)
    if part.features_path.exists():
        part.features.require(origin)
        say(f"features: current ({part.features_path}: {len(part.features)} images)")
        return
    started = time.perf_counter()
    head, vectors = source()
    write_features(
        part.features_path, part.store.images(), len(part.store.taxonomy), origin, head, vectors
    )
    seconds = time.perf_counter() - started
    say(
        f"features: {len(part.features)} images x {part.features.width} of {kind} in {seconds:.1f} s -> {part.features_path}"
    )
