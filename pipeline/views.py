"""The views of stage 2, each made into a features.h5: a network's bottleneck features, the
products' texts, the words in the photos, or vectors that another program computed.

The first view is the run itself, with stage 1's network; a further one has a folder of its own in
views/. The functions do nothing if the features are current.
"""

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from catalog.artifacts import read_sealed, sha256_file, write_sealed
from catalog.errors import ArtifactError, ShelfsortError
from catalog.image_table import ImageTable
from catalog.parallel import cores
from catalog.sources.column_table import ColumnTable
from features.columns import MISSING, ColumnEncoder, giveaway
from features.cover import PictureTexts, read_here, read_pictures
from features.linear_head import fit_head, sample, save_head
from features.ocr import READERS, TextReader
from features.relabel import relabel
from features.schema import FEATURE_DTYPE, SCHEMA
from features.store import FeatureStore
from features.text import NoWordsError, TextModel
from features.vectors import VectorFile
from features.writer import discard_partial, write_features
from pipeline.config import ColumnsView, CoverView, FileView, RunConfig, TextView
from pipeline.run_folder import RunFolder, Say, Workers
from stage1_cnn.head import Head

_log = logging.getLogger(__name__)
GIVEAWAY = 0.95
"""Share of held-out products whose category a column alone names, from which it is warned of."""
FEW_WORDS = 0.05
"""Share of pictures with words below which a view of them hardly brings anything (fashion: 2.4%,
top-1 per product changed by -.06 [-.15, .03] points of 11,166)."""
ViewSource = tuple[Head, Callable[[ImageTable], np.ndarray]]
"""A view's head, and a function from B images to their vectors, float16 [B, D]."""


def network_view(
    view_folder: RunFolder, config: RunConfig, rebuild: bool, say: Say, workers: Workers
) -> None:
    """stage1/best.pt -> features.h5: every photo's bottleneck features. Interrupted, it resumes.

    Raises ArtifactError if the features are of another checkpoint or precision.
    """
    if view_folder.features_path.exists() and not rebuild:
        _relabel(view_folder, say)
        view_folder.require_features("checkpoint")
        view_folder.require_precision(config.features.precision)
        made = view_folder.features.computed_with
        size = f"{len(view_folder.features)} images"
        how = f"computed in {made['precision']} on {made['device']} by {made['runtime']}"
        say(f"features: current ({view_folder.features_path}: {size}, {how})")
        return
    started = time.perf_counter()
    view_folder.store.verify()
    view_folder.stage1_checksum()  # the best.pt there may be one of an interrupted training
    if config.features.precision == "int8":
        from pipeline.quantisation import keep_int8

        keep_int8(view_folder, say)
    runtime = choose_runtime(view_folder, config, say)
    unreadable, precision = _extract(view_folder, config, runtime, rebuild, workers)
    seconds, n = time.perf_counter() - started, len(view_folder.features)
    size = f"{n} images x {view_folder.features.width}"
    rate = f"{seconds:.1f} s ({n / seconds:.0f} img/s, {precision} by {runtime})"
    say(f"features: {size} in {rate}, {unreadable} unreadable -> {view_folder.features_path}")


def _relabel(view_folder: RunFolder, say: Say) -> None:
    changed = relabel_features(view_folder, view_folder.features_path)
    if changed is not None:
        say(f"features: {changed} images have corrected labels, none is extracted again")


def relabel_features(run: RunFolder, path: Path) -> int | None:
    """Brings a features.h5 of the run's photos up to date if nothing but labels was corrected since
    it was made: what the photos look like stays. Returns how many images have another label; None
    if none was corrected."""
    old = FeatureStore(path)
    made_from = run.with_labels_of_now(old.made_from)
    if made_from == old.made_from:
        return None
    run.store.verify()
    return relabel(old, run.store.images(), len(run.store.taxonomy), made_from)


def choose_runtime(view_folder: RunFolder, config: RunConfig, say: Say) -> str:
    """What `features.runtime` means for a view's network: `auto` is the fastest on this processor,
    measured once and kept in runtime.json."""
    from stage1_cnn.device import inference_compute
    from stage1_cnn.runtimes import candidates, measure

    if config.features.runtime != "auto":
        return config.features.runtime
    compute = inference_compute(config.stage1.device, config.features.precision)
    known = candidates(compute)
    if len(known) == 1:
        return known[0]
    checkpoint = view_folder.stage1_checksum()
    origin = {"checkpoint": checkpoint, **compute.to_json(), "runtimes": known}
    path = view_folder.runtime_path
    with contextlib.suppress(ArtifactError):  # missing, or damaged: measured again
        kept = read_sealed(path, "features")
        if kept["made_from"] == origin:
            return kept["fastest"]
    rates = measure(view_folder.checkpoint, compute)
    fastest = max(rates, key=rates.__getitem__)
    write_sealed(path, {"made_from": origin, "images_per_second": rates, "fastest": fastest})
    measured = ", ".join(f"{name} {rate:.0f} img/s" for name, rate in rates.items())
    say(f"features: {measured}; {fastest} computes ({path})")
    return fastest


def _extract(
    view_folder: RunFolder, config: RunConfig, runtime: str, rebuild: bool, workers: Workers
) -> tuple[int, str]:
    """Writes features.h5; returns the number of unreadable images, and the precision. A rebuild
    removes nothing before network and workers are known to be usable."""
    from features.extract import extract
    from pipeline.networks import open_network
    from stage1_cnn.device import inference_compute
    from stage1_cnn.runtimes import keep_network

    device, asked = config.stage1.device, config.features.precision
    size = config.features.batch_size
    keep_network(runtime, view_folder.checkpoint, inference_compute(device, asked))
    network = {"device": device, "precision": asked, "runtime": runtime}
    predictor = open_network(view_folder.checkpoint, **network)
    precision = predictor.compute.precision
    with contextlib.ExitStack() as stack:
        on_workers = None
        if workers:
            from pipeline.cluster.steps import extraction

            client = stack.enter_context(workers())
            on_workers = extraction(client, view_folder, size, device, predictor)
        if rebuild:
            discard_partial(view_folder.features_path)
        unreadable = extract(
            predictor,
            view_folder.store,
            view_folder.features_path,
            batch_size=size,
            lanes=config.jobs or cores(),
            elsewhere=on_workers,
        )
    return unreadable, precision


def text_view(view_folder: RunFolder, view: TextView, seed: int, rebuild: bool, say: Say) -> None:
    """The store's texts -> text.json, text.npz and features.h5 of a view."""
    store = view_folder.store
    made_from = {
        "store": store.fingerprint,
        "config": view.model_dump(mode="json") | {"seed": seed},
    }
    if rebuild or not _has_text_model(view_folder, made_from):
        store.verify()
        train = store.images("train")
        train = train[train.fit]  # without products whose photos all belong to another split
        products, first = np.unique(train.product_id, return_index=True)
        remedy = "name their field in catalog.text and rebuild the store (step ingest)"
        _fit_texts(
            view_folder, store.texts(products), train.class_index[first], made_from, remedy=remedy
        )

    def source() -> ViewSource:
        model = TextModel.open(view_folder.folder)
        return model.head, lambda images: model.features(store.texts(images.product_id))

    _write(
        view_folder,
        "text",
        _origin(view_folder, "text", view_folder.text_checksum()),
        source,
        rebuild,
        say,
    )


def _has_text_model(view_folder: RunFolder, made_from: dict[str, Any]) -> bool:
    return view_folder.current(view_folder.text_model, made_from, "features", any_labels=True)


def _fit_texts(
    view_folder: RunFolder,
    texts: Sequence[str],
    class_index: np.ndarray,
    made_from: dict[str, Any],
    *,
    remedy: str,
    characters: bool = False,
) -> None:
    """Fits a view's model of texts, with the components and seed that it is `made_from`. Raises
    ShelfsortError, with the `remedy`, if they have no words."""
    settings, classes = made_from["config"], len(view_folder.store.taxonomy)
    size, seed = settings["components"], settings["seed"]
    try:
        model = TextModel.fit(texts, class_index, classes, size, seed, characters=characters)
    except NoWordsError as error:
        raise ShelfsortError(f"view {view_folder.folder.name}: {error}; {remedy}") from error
    model.save(view_folder.folder, made_from)


def text_readers(config: RunConfig) -> dict[str, TextReader]:
    """What reads the words in the photos, by the name of the view. Raises ShelfsortError if it is
    not installed."""
    views = {name: config.view(name) for name in config.views}
    return {
        name: READERS[view.ocr](f"view {name}")
        for name, view in views.items()
        if isinstance(view, CoverView)
    }


def cover_view(
    view_folder: RunFolder,
    view: CoverView,
    reader: TextReader,
    config: RunConfig,
    rebuild: bool,
    say: Say,
    workers: Workers = None,
) -> None:
    """The store's photos -> words/, text.json, text.npz and features.h5 of a view. Interrupted, it
    resumes; what is read stays read, also in a rebuild."""
    store = view_folder.store
    made_from = {
        "store": store.fingerprint,
        "config": view.model_dump(mode="json") | {"seed": config.stage1.seed},
        "reader": reader.name,
    }

    @functools.cache
    def texts() -> PictureTexts:
        return _read_words(view_folder, reader, config.jobs or cores(), say, workers)

    def texts_of(images: ImageTable) -> list[str]:
        return [texts()[digest] for digest in store.picture_digests(images.image_id)]

    if rebuild:
        view_folder.text_model.unlink(missing_ok=True)
    if not _has_text_model(view_folder, made_from):
        _fit_words(view_folder, texts_of, made_from)

    def source() -> ViewSource:
        model = TextModel.open(view_folder.folder)
        return model.head, lambda images: model.features(texts_of(images))

    origin = _origin(view_folder, "cover", view_folder.text_checksum())
    _write(view_folder, "cover", origin, source, rebuild, say)


def _fit_words(
    view_folder: RunFolder,
    texts_of: Callable[[ImageTable], list[str]],
    made_from: dict[str, Any],
) -> None:
    """Fits a view's model of the words in photos, on each photo of train."""
    view_folder.store.verify()
    train = view_folder.store.images("train")
    train = train[train.fit]
    remedy, texts = "leave it out of section views", texts_of(train)
    _fit_texts(view_folder, texts, train.class_index, made_from, remedy=remedy, characters=True)


def _read_words(
    view_folder: RunFolder, reader: TextReader, jobs: int, say: Say, workers: Workers
) -> PictureTexts:
    started, store = time.perf_counter(), view_folder.store
    texts = PictureTexts(view_folder.folder, reader.name)
    with contextlib.ExitStack() as stack:
        read_blocks = read_here(store, reader, jobs)
        if workers:
            from pipeline.cluster.steps import reading

            read_blocks = reading(stack.enter_context(workers()), store, reader)
        read = read_pictures(store, texts, read_blocks)
    seconds, wordy = time.perf_counter() - started, sum(map(bool, texts.values()))
    say(
        f"features: words of {read} pictures read in {seconds:.1f} s, {len(texts) - read} were "
        f"there; {wordy} have some -> {texts.folder}"
    )
    if wordy < FEW_WORDS * len(texts):
        say(f"  that is {wordy / len(texts):.1%}, too few to learn from; better leave the view out")
    return texts


def file_view(view_folder: RunFolder, view: FileView, seed: int, rebuild: bool, say: Say) -> None:
    """A file of vectors -> features.h5 of a view, for the images of the store, and head.npz."""
    with VectorFile(view.file) as vectors:
        origin = _origin(view_folder, "file", sha256_file(view.file))

        def source() -> ViewSource:
            train, classes = view_folder.store.images("train"), len(view_folder.store.taxonomy)
            rows = sample(np.flatnonzero(train.fit), classes, seed)
            head = fit_head(
                vectors.features(train.image_id[rows]), train.class_index[rows], classes
            )
            save_head(view_folder.view_head, head, origin)
            return head, lambda images: vectors.features(images.image_id)

        _write(view_folder, "file", origin, source, rebuild, say)


Values = Callable[[np.ndarray], Mapping[str, Sequence[Any]]]
"""The columns' values of some products, by their ids int64 [N]."""


def columns_view(view_folder: RunFolder, view: ColumnsView, rebuild: bool, say: Say) -> None:
    """The products' columns -> columns.json and features.h5 of a view, which has their codes.

    Raises ShelfsortError if the table can't be read, lacks a column or has none of the products.
    """
    store, config = view_folder.store, view.model_dump(mode="json")
    if not view.in_store:
        config["table"] = sha256_file(_existing(view.table))
    made_from = {"store": store.fingerprint, "config": config}
    values = functools.cache(lambda: _values(view_folder, view))
    encoding = view_folder.columns_model
    if rebuild or not view_folder.current(encoding, made_from, "features", any_labels=True):
        store.verify()
        _fit_columns(view_folder, values(), made_from, say)
    encoder = ColumnEncoder.open(encoding)
    origin = _origin(view_folder, "columns", view_folder.columns_checksum())
    origin |= {"sizes": list(encoder.sizes), "categorical": list(encoder.categorical)}

    def source() -> ViewSource:
        none = np.zeros((len(store.taxonomy), len(encoder.columns)), dtype=np.float32)
        head = Head(none, none.sum(axis=1))  # codes are no vectors: nothing asks a linear head

        def codes(images: ImageTable) -> np.ndarray:
            return encoder.encode(values()(images.product_id)).astype(FEATURE_DTYPE)

        return head, codes

    _write(view_folder, "columns", origin, source, rebuild, say)


def _existing(table: str) -> str:
    if not Path(table).is_file():
        raise ShelfsortError(f"{table}: no such file; views.NAME.table names `store`, or a file")
    return table


def _values(view_folder: RunFolder, view: ColumnsView) -> Values:
    """What has the columns' values: the store, or a file."""
    store = view_folder.store
    if not view.in_store:
        table = ColumnTable.read(view.table, view.columns)
        if not table.known(store.keys(store.images("train").product_id)):
            raise ShelfsortError(f"{view.table}: has none of the products of {store.path}")
        return lambda product_id: table.values(store.keys(product_id))
    kept = store.settings.get("columns", [])
    names = list(view.columns or kept)
    if missing := [name for name in names if name not in kept] or not names:
        raise ArtifactError(store.path, f"keeps no columns {missing}", "ingest")

    def of_store(product_id: np.ndarray) -> Mapping[str, Sequence[Any]]:
        frame = store.columns(product_id)
        return {name: frame[name].tolist() for name in names}

    return of_store


def _fit_columns(
    view_folder: RunFolder, values: Values, made_from: dict[str, Any], say: Say
) -> None:
    """Fits the encoding on the products of train, and says what it is; warns of a column that gives
    the category away."""
    store, name = view_folder.store, view_folder.folder.name
    train, held = (
        _products(store.images(*splits)) for splits in (("train",), ("reserve", "val_a", "val_b"))
    )
    known, truth = values(train.product_id), values(held.product_id)
    encoder = ColumnEncoder.fit(known)
    encoder.save(view_folder.folder, made_from)
    counts = np.bincount(held.class_index) if len(held) else np.zeros(1)
    for column in encoder.columns:
        present = float((column.codes(known[column.name]) != MISSING).mean())
        say(
            f"features: column {column.name}: {column.kind}, {column.size} codes, {present:.0%} of "
            f"{len(train)} products have it"
        )
        share = giveaway(
            known[column.name], train.class_index, truth[column.name], held.class_index
        )
        if share > GIVEAWAY and counts.max() <= GIVEAWAY * len(held):
            _log.warning(
                "view %s: column %s alone names the category of %.1f%% of %d held-out products; "
                "will products that have no category yet have it? If not, leave it out: name the "
                "others in views.%s.columns",
                name,
                column.name,
                100 * share,
                len(held),
                name,
            )


def _products(images: ImageTable) -> ImageTable:
    """The first fitted image of each product."""
    images = images[images.fit]
    return images[np.unique(images.product_id, return_index=True)[1]]


def _origin(view_folder: RunFolder, origin_key: str, checksum: str) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        origin_key: checksum,
        "store": view_folder.store.fingerprint,
        "dtype": FEATURE_DTYPE.__name__,
    }


def _write(
    view_folder: RunFolder,
    view_type: str,
    origin: dict[str, Any],
    source: Callable[[], ViewSource],
    rebuild: bool,
    say: Say,
) -> None:
    if rebuild:
        discard_partial(view_folder.features_path)
    if view_folder.features_path.exists() and not rebuild:
        _relabel(view_folder, say)
        view_folder.features.require(origin)
        say(f"features: current ({view_folder.features_path}: {len(view_folder.features)} images)")
        return
    started = time.perf_counter()
    head, vectors = source()
    write_features(
        view_folder.features_path,
        view_folder.store.images(),
        len(view_folder.store.taxonomy),
        origin,
        head,
        vectors,
    )
    seconds = time.perf_counter() - started
    features = view_folder.features
    size = f"{len(features)} images x {features.width} of {view_type}"
    say(f"features: {size} in {seconds:.1f} s -> {view_folder.features_path}")
