"""The only inference path: images of a product -> features -> log-probabilities -> pool of experts
-> refined.

Evaluation, scoring and single predictions all end in `refine`, here in `TwoStageModel.answer`; they
differ in where the features come from.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any, cast

import numpy as np
import xxhash

from catalog.artifacts import differences, read_json
from catalog.blank import beside_others, is_blank
from catalog.config import MAX_PIXELS, SourcesConfig
from catalog.errors import ArtifactError, ImageError, ShelfsortError
from catalog.fetch import require_files
from catalog.files import ACCESS
from catalog.image_table import ImageTable
from catalog.images import decode
from catalog.taxonomy import Taxonomy
from features.columns import MISSING, ColumnEncoder
from features.cover import CoverModel, PictureTexts
from features.linear_head import load_head
from features.ocr import READERS
from features.text import TextModel
from features.vectors import GivenVectors, VectorFile
from pipeline.networks import open_network
from pipeline.run_folder import RunFolder
from stage1_cnn.dataset import decode_all, padded
from stage1_cnn.predict import Predictor
from stage1_cnn.runtimes import answering
from stage2_xgb.addition import NONE_ADDED, Additions, with_added
from stage2_xgb.bundle import Bundle
from stage2_xgb.final import open_final
from stage2_xgb.items import ItemBlock
from stage2_xgb.refine import Refined, refine

View = Predictor | TextModel | CoverModel | GivenVectors
"""What makes the features of a view: a network, a model of texts or of the words in photos, or a
file of vectors."""
Size = tuple[int, int] | None
"""Height and width that decoded photos keep at least; None: they are decoded as a whole."""
log = logging.getLogger(__name__)
_BLANK = "shows nothing, and the product has other photos"


@dataclass
class TwoStageModel:
    """Both stages of a run, ready to answer. `predictors` make the features of the views with
    vectors; the first is stage 1's network. `added` are categories that were added without a
    training; `columns` makes codes of the products' columns, if a view reads these.

        model = TwoStageModel.open(RunFolder(Path("runs/first")))
        prediction = predict_files(model, ["front.jpg", "back.jpg"], top=5)
    """

    predictors: tuple[View, ...]
    bundle: Bundle
    added: Additions = NONE_ADDED
    columns: ColumnEncoder | None = None
    max_pixels: int = MAX_PIXELS
    """Photos with more are errors."""

    @classmethod
    def open(
        cls,
        run: RunFolder,
        device: str = "auto",
        precision: str = "auto",
        runtime: str | Mapping[str, str] = "auto",
        vectors: Mapping[str, str] | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> "TwoStageModel":
        """Loads checkpoints and bundle, the last fit's if there is one; `vectors` names the file of
        each view that is one, `runtime` may name one per view.

        Raises ArtifactError if an artefact is missing, damaged, or made from another checkpoint,
        ShelfsortError if a view's file isn't named, or a file is named for another view.
        """
        bundle = open_final(run.stage2) or Bundle.open(run.stage2)
        _require_file_views(bundle, vectors or {})
        predictors: list[View] = []
        columns = None
        for name, origin in bundle.made_from["views"].items():
            view: View | ColumnEncoder
            if "file" in origin:
                view = _given(run, name, origin, vectors or {})
            elif any(source in origin for source in ("text", "cover", "columns")):
                view = _open_fitted(run, name, origin)
            else:
                asked = runtime if isinstance(runtime, str) else runtime[name]
                evaluated = bundle.made_from.get("computed_with", {}).get(name, {}).get("runtime")
                answers = answering(asked, evaluated, device, precision)
                view = _open_network(run, name, origin, device, precision, answers)
            if isinstance(view, ColumnEncoder):
                columns = view
            else:
                predictors.append(view)
        added = Additions.open(bundle)
        return cls(tuple(predictors), bundle, added, columns, max_pixels)

    @property
    def network(self) -> Predictor:
        """Stage 1's network, which makes the features of the first view."""
        return cast("Predictor", self.predictors[0])

    @property
    def known(self) -> Taxonomy:
        """The categories that both stages were trained on."""
        return self.network.taxonomy

    @property
    def taxonomy(self) -> Taxonomy:
        """The categories, those added since the training last."""
        return self.added.taxonomy(self.known)

    @property
    def networks(self) -> dict[str, Predictor | None]:
        """The network of each view; None for those that have none."""
        return {
            name: predictor if isinstance(predictor, Predictor) else None
            for name, predictor in self._views()
        }

    @property
    def runtimes(self) -> dict[str, str]:
        """The runtime of each view that is a network."""
        return {name: network.runtime for name, network in self.networks.items() if network}

    @property
    def text_view(self) -> str | None:
        """Name of the view that reads the products' texts, if there is one."""
        named = (name for name, predictor in self._views() if isinstance(predictor, TextModel))
        return next(named, None)

    @property
    def vector_files(self) -> tuple[VectorFile, ...]:
        """The files of vectors that views read."""
        return tuple(
            predictor.file for predictor in self.predictors if isinstance(predictor, GivenVectors)
        )

    def _views(self) -> Iterator[tuple[str, View]]:
        views = self.bundle.made_from["views"].items()
        names = [name for name, origin in views if "columns" not in origin]
        return zip(names, self.predictors, strict=True)

    def features(
        self, images: Sequence[bytes | ImageError], image_id: np.ndarray, texts: Sequence[str] = ()
    ) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, dict[int, ImageError]]:
        """One batch of B images with their ids, int64 [B], and their products' texts. Each image is
        decoded once for all views that take it alike.

        Returns, per view, the features float16 [R, D] of the R readable images; which those are,
        bool [B]; which of these are blank, bool [R]; and row -> error of the others.
        """
        decoded, readable, errors = self._decoded(images)
        blobs = list(compress(images, readable))
        blank = self._blank(next(iter(decoded.values())), cast("list[bytes]", blobs))
        if not blobs:
            empty = [np.zeros((0, p.width), dtype=np.float16) for p in self.predictors]
            return empty, readable, blank, errors
        texts_read = list(compress(texts or [""] * len(images), readable))

        def view_features(predictor: View) -> np.ndarray:
            if isinstance(predictor, TextModel):
                return predictor.features(texts_read)
            if isinstance(predictor, CoverModel):
                digests = map(xxhash.xxh3_128_hexdigest, cast("list[bytes]", blobs))
                return predictor.features(decoded[None], list(digests))
            if isinstance(predictor, GivenVectors):
                return predictor.features(image_id[readable])
            pixels = predictor.transform(decoded[predictor.transform.least])
            return predictor.features(padded(pixels, readable))[readable]

        features = [view_features(predictor) for predictor in self.predictors]
        return features, readable, blank, errors

    def _decoded(
        self, images: Sequence[bytes | ImageError]
    ) -> tuple[dict[Size, list[np.ndarray]], np.ndarray, dict[int, ImageError]]:
        """The readable ones of B photos, once for each size that the views have them decoded to
        (`EvalTransform.least`; the first network's comes first); which those are, bool [B]; and row
        -> error of the others."""
        sizes = [p.transform.least for p in self.predictors if isinstance(p, Predictor)]
        sizes += [None for p in self.predictors if isinstance(p, CoverModel)]
        parts = {
            size: decode_all(images, max_pixels=self.max_pixels, least=size)
            for size in dict.fromkeys(sizes)
        }
        readable = np.all([mask for _, mask, _ in parts.values()], axis=0)
        errors = {row: error for *_, some in parts.values() for row, error in some.items()}
        photos = {
            size: list(compress(decoded, readable[mask]))
            for size, (decoded, mask, _) in parts.items()
        }
        return photos, readable, errors

    def _blank(self, photos: Sequence[np.ndarray], blobs: Sequence[bytes]) -> np.ndarray:
        """Which photos are blank, bool, as ingest saw them: decoded as a whole."""
        scaled, drop = self.network.transform.least is not None, self.bundle.drop_blank
        return np.array(
            [
                drop and is_blank(photo) and (not scaled or is_blank(decode(blob, self.max_pixels)))
                for photo, blob in zip(photos, blobs, strict=True)
            ],
            dtype=bool,
        )

    def read(
        self,
        images: Sequence[bytes | ImageError],
        table: ImageTable,
        batch_size: int,
        texts: Sequence[str] = (),
        codes: np.ndarray | None = None,
    ) -> tuple[ItemBlock, dict[int, ImageError], np.ndarray]:
        """Log-probabilities and features of the images that count; `table` has one row per image.

        Also returns row -> error of the images that don't count, unreadable ones and blank ones
        beside others of their product; and which of those that count are blank, bool. `texts`:
        the text of each image's product, if a view reads it; `codes` [N, M]: of its columns, by
        `columns`, without which all are missing.
        """
        batches: list[list[np.ndarray]] = []
        blanks: list[np.ndarray] = []
        readable = np.zeros(len(images), dtype=bool)
        errors: dict[int, ImageError] = {}
        for start in range(0, len(images) or 1, batch_size):
            batch = slice(start, start + batch_size)
            features, readable[batch], blank_here, failed = self.features(
                images[batch], table.image_id[batch], texts[batch]
            )
            batches.append(features)
            blanks.append(blank_here)
            errors |= {start + row: error for row, error in failed.items()}
        rows, blank = np.flatnonzero(readable), np.concatenate(blanks)
        needless = beside_others(blank, table.product_id[rows])
        errors |= {row: ImageError("blank", _BLANK) for row in rows[needless].tolist()}
        counted = [np.concatenate(view)[~needless] for view in zip(*batches, strict=True)]
        counting = rows[~needless]
        if codes is None:
            codes = self.encode([{}] * len(table))
        pooled = ItemBlock.images(table[counting], counted, self.network.head, codes[counting])
        return pooled, errors, blank[~needless]

    def encode(self, products: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Codes float32 [N, M] of the columns of products, by name; what one lacks is missing."""
        encoder = self.columns or ColumnEncoder(())
        values = {name: [product.get(name) for product in products] for name in encoder.names}
        return encoder.encode(values, len(products))

    def answer(self, images: ItemBlock, unit: str) -> Refined:
        """Both stages' answers for images, or for their products, whose images stand together,
        among the `known` categories."""
        return refine(self.bundle, images, unit)


def _require_file_views(bundle: Bundle, vectors: Mapping[str, str]) -> None:
    """Raises ShelfsortError if a file of vectors is given for a view that is none."""
    views = [name for name, origin in bundle.made_from["views"].items() if "file" in origin]
    unknown = [name for name in vectors if name not in views]
    if unknown:
        expected = "its views are no files of vectors; give none"
        if views:
            expected = f"expected {' or '.join(views)}"
        raise ShelfsortError(
            f"score.vectors: {bundle.folder} has no view {unknown[0]} that is a file of vectors; "
            f"{expected}"
        )


def _cover(view_folder: RunFolder, name: str) -> CoverModel:
    """A view of the words in photos. Raises ShelfsortError if what reads them is not installed."""
    model = TextModel.open(view_folder.folder)
    made_from = read_json(view_folder.text_model, "features")["made_from"]
    reader = READERS[made_from["config"]["ocr"]](f"view {name}")
    if reader.name != made_from["reader"]:
        message = "view %s learnt from words that %s read, now %s reads them"
        log.warning(message, name, made_from["reader"], reader.name)
    return CoverModel(model, reader, PictureTexts(view_folder.folder, reader.name))


def _open_network(
    run: RunFolder, name: str, origin: Mapping[str, Any], device: str, precision: str, runtime: str
) -> Predictor:
    """The network of a view, which must be the one that stage 2 was made from."""
    network = open_network(
        run.view(name).checkpoint, device=device, precision=precision, runtime=runtime
    )
    now = {"checkpoint": network.fingerprint, "transform": network.transform.to_json()}
    _require_origin(run, name, origin, now)
    return network


def _open_fitted(
    run: RunFolder, name: str, origin: Mapping[str, Any]
) -> TextModel | CoverModel | ColumnEncoder:
    """What was fitted on titles, words in photos or columns, and stage 2 was made from."""
    view = run.view(name)
    fitted: TextModel | CoverModel | ColumnEncoder
    if "text" in origin:
        fitted, now = TextModel.open(view.folder), {"text": view.text_checksum()}
    elif "cover" in origin:
        fitted, now = _cover(view, name), {"cover": view.text_checksum()}
    else:
        fitted = ColumnEncoder.open(view.columns_model)
        now = {"columns": view.columns_checksum()}
    _require_origin(run, name, origin, now)
    return fitted


def _require_origin(
    run: RunFolder, name: str, origin: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    if changes := differences(now, {key: origin[key] for key in now}):
        problem = f"view {name} is another one now: {'; '.join(changes)}"
        raise ArtifactError(run.stage2, problem, "stage2")


def _given(
    run: RunFolder, name: str, origin: Mapping[str, Any], vectors: Mapping[str, str]
) -> GivenVectors:
    """A view whose vectors are in a file."""
    if name not in vectors:
        retrain = run.command("stage2", "--set", "views={}", "--rebuild")
        raise ShelfsortError(
            f"{run.stage2}: view {name} is a file of vectors, which has none of new photos; score "
            f"with a file of theirs: --set 'score.vectors={{{name}: FILE}}', or train without: "
            f"{retrain}"
        )
    return GivenVectors(VectorFile(vectors[name]), load_head(run.view(name).view_head, origin))


@dataclass(frozen=True)
class Prediction:
    """The answer for one product: class indices and their confidences, the most likely first;
    stage 1's own answer, and whether stage 2 was asked; file -> reason for photos left out."""

    classes: list[int]
    confidences: list[float]
    stage1_class: int
    refined: bool
    unreadable: dict[str, str]


def predict_files(
    model: TwoStageModel,
    paths: Sequence[str | Path],
    top: int,
    text: str | None = None,
    access: SourcesConfig = ACCESS,
    columns: Mapping[str, str] | None = None,
) -> Prediction:
    """The `top` categories of one product, from its photos (files or URLs) and, if a view reads
    them, its text and its `columns`, by name.

    Raises ShelfsortError if no photo can be read as an image, the text is missing, or a column is
    unknown or has a value that is no number where it is one of numbers.
    """
    product, text = _columns_of(model, columns or {}), _text_of(model, text)
    table = image_table(np.arange(len(paths)), np.zeros(len(paths), dtype=np.int64))
    images, errors, _ = model.read(
        require_files(paths, access),
        table,
        batch_size=64,
        texts=[text] * len(paths),
        codes=model.encode([product] * len(paths)),
    )
    unreadable = {str(paths[row]): str(error) for row, error in errors.items()}
    if not len(images):
        raise ShelfsortError("; ".join(f"{path}: {reason}" for path, reason in unreadable.items()))
    result = model.answer(images, "product")
    log_probs = with_added(result.two_stage, model.added.log_odds(model.bundle, images))
    classes, confidences = top_classes(log_probs, top)
    return Prediction(
        classes=classes[0].tolist(),
        confidences=confidences[0].tolist(),
        stage1_class=int(result.pooled.log_probs[0].argmax()),
        refined=bool(result.refined[0]),
        unreadable=unreadable,
    )


def _text_of(model: TwoStageModel, text: str | None) -> str:
    """The text, which must be given if a view reads it."""
    if text is None and model.text_view:
        raise ShelfsortError(
            f"view {model.text_view} reads the product's text: give it with --text, '' if it has "
            "none"
        )
    return text or ""


def _columns_of(model: TwoStageModel, columns: Mapping[str, str]) -> Mapping[str, str]:
    """The columns, checked."""
    known = {column.name: column for column in model.columns.columns} if model.columns else {}
    for name, value in columns.items():
        if name not in known:
            columns_read = ", ".join(known) or "none: it was trained without a view of columns"
            raise ShelfsortError(f"--column {name}: the run reads the columns {columns_read}")
        if value.strip() and known[name].codes([value])[0] == MISSING:
            raise ShelfsortError(
                f"--column {name}={value}: expected a {known[name].kind}, such as "
                f"{'2026-05-31' if known[name].kind == 'date' else '12.5'}"
            )
    return columns


def image_table(image_id: np.ndarray, product_id: np.ndarray) -> ImageTable:
    """A table of unlabelled images, for scoring: class and split are 0, nothing may be fitted."""
    zeros = np.zeros(len(image_id), dtype=np.int32)
    return ImageTable(image_id, product_id, zeros, zeros.astype(np.uint8), zeros.astype(bool))


def top_classes(log_probs: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """The `top` most likely classes int64 [N, T] and their confidences float32 [N, T], descending;
    ties by class index."""
    order = np.argsort(-log_probs, axis=1, kind="stable")[:, :top]
    return order, np.exp(np.take_along_axis(log_probs, order, axis=1))
