"""The only inference path: images of a product -> features -> log-probabilities -> pool of experts
-> refined.

Evaluation, scoring and single predictions all end in `Model.answer`; they differ in where the
features come from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from catalog.artifacts import differences
from catalog.blank import beside_others, is_blank
from catalog.errors import ArtifactError, ImageError, ShelfsortError
from catalog.files import read_file
from catalog.image_table import ImageTable
from catalog.taxonomy import Taxonomy
from features.linear_head import load_head
from features.text import TextModel
from features.vectors import GivenVectors, VectorFile
from pipeline.networks import open_network
from pipeline.run_folder import Run
from stage1_cnn.dataset import decode_all, padded
from stage1_cnn.onnx import OnnxPredictor
from stage1_cnn.predict import Predictor
from stage2_xgb.bundle import Bundle
from stage2_xgb.items import Pooled
from stage2_xgb.refine import Refined, refine

_BLANK = "shows nothing, and the product has other photos"


@dataclass
class Model:
    """Both stages of a run, ready to answer. `predictors` holds stage 1's network and what makes
    the further views."""

    predictors: tuple[Predictor | TextModel | GivenVectors, ...]
    bundle: Bundle

    @classmethod
    def open(
        cls,
        run: Run,
        device: str = "auto",
        precision: str = "auto",
        runtime: str = "torch",
        vectors: Mapping[str, str] | None = None,
    ) -> "Model":
        """Loads checkpoints and bundle; `vectors` names the file of each view that is one. Raises
        ArtifactError where an artefact is missing, damaged, or made from another checkpoint,
        ShelfsortError where a view's file isn't named or a named view has none."""
        bundle = Bundle.open(run.stage2)
        _require_file_views(bundle, vectors or {})
        kind = OnnxPredictor if runtime == "onnx" else Predictor
        predictors: list[Predictor | TextModel | GivenVectors] = []
        for name, origin in bundle.made_from["views"].items():
            part = run.view(name)
            if "file" in origin:
                predictors.append(_given(run, name, origin, vectors or {}))
                continue
            if "text" in origin:
                predictors.append(TextModel.open(part.folder))
                found = {"text": part.text_checksum()}
            else:
                predictors.append(
                    network := open_network(
                        part.checkpoint, device=device, precision=precision, kind=kind
                    )
                )
                found = {
                    "checkpoint": network.fingerprint,
                    "transform": network.transform.to_json(),
                }
            if changes := differences(found, {key: origin[key] for key in found}):
                raise ArtifactError(
                    run.stage2,
                    f"view {name} is another one now: {'; '.join(changes)}",
                    "stage2",
                )
        return cls(tuple(predictors), bundle)

    @property
    def taxonomy(self) -> Taxonomy:
        """The categories."""
        return self.predictors[0].taxonomy

    @property
    def networks(self) -> dict[str, Predictor | None]:
        """Of each view its network; None of those that are none."""
        views = zip(self.bundle.made_from["views"], self.predictors, strict=True)
        return {
            name: predictor if isinstance(predictor, Predictor) else None
            for name, predictor in views
        }

    @property
    def text_view(self) -> str | None:
        """Name of the view that reads the products' texts, if any does."""
        views = zip(self.bundle.made_from["views"], self.predictors, strict=True)
        return next((name for name, predictor in views if isinstance(predictor, TextModel)), None)

    @property
    def vector_files(self) -> tuple[VectorFile, ...]:
        """The files of vectors that views read."""
        return tuple(
            predictor.file for predictor in self.predictors if isinstance(predictor, GivenVectors)
        )

    def features(
        self, images: Sequence[bytes | ImageError], image_id: np.ndarray, texts: Sequence[str] = ()
    ) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, dict[int, ImageError]]:
        """One batch of B images, each decoded once for all views, with their ids int64 [B] and
        their products' texts: per view the features float16 [R, D] of the R readable ones; which
        those are, bool [B]; which of these are blank, bool [R]; and place -> why not readable."""
        photos, readable, errors = decode_all(images)
        blank = np.array(
            [self.bundle.drop_blank and is_blank(photo) for photo in photos], dtype=bool
        )
        if not photos:
            return (
                [np.zeros((0, p.width), dtype=np.float16) for p in self.predictors],
                readable,
                blank,
                errors,
            )
        known = list(compress(texts or [""] * len(images), readable))

        def seen(predictor: Predictor | TextModel | GivenVectors) -> np.ndarray:
            if isinstance(predictor, TextModel):
                return predictor.features(known)
            if isinstance(predictor, GivenVectors):
                return predictor.features(image_id[readable])
            return predictor.features(padded(predictor.transform(photos), readable))[readable]

        return [seen(predictor) for predictor in self.predictors], readable, blank, errors

    def read(
        self,
        images: Sequence[bytes | ImageError],
        table: ImageTable,
        batch_size: int,
        texts: Sequence[str] = (),
    ) -> tuple[Pooled, dict[int, ImageError], np.ndarray]:
        """Log-probabilities and features of the images that count, a row of `table` each; row ->
        error of the others: those that can't be read, and blank ones beside others of their
        product; and which of the images that count are blank, bool. `texts`: the text of each
        image's product, if a view reads it."""
        parts, blanks, readable, errors = [], [], np.zeros(len(images), dtype=bool), {}
        for start in range(0, len(images) or 1, batch_size):
            batch = slice(start, start + batch_size)
            found, fine, blank, failed = self.features(
                images[batch], table.image_id[batch], texts[batch]
            )
            parts.append(found)
            blanks.append(blank)
            readable[batch] = fine
            errors |= {start + place: error for place, error in failed.items()}
        rows = np.flatnonzero(readable)
        shows_nothing = np.concatenate(blanks)
        needless = beside_others(shows_nothing, table.product_id[rows])
        errors |= {row: ImageError("blank", _BLANK) for row in rows[needless].tolist()}
        features = [
            np.concatenate([part[v] for part in parts])[~needless]
            for v in range(len(self.predictors))
        ]
        seen = Pooled.images(table[rows[~needless]], features, self.predictors[0].head)
        return seen, errors, shows_nothing[~needless]

    def answer(self, images: Pooled, unit: str) -> Refined:
        """Both stages' opinion of images, or of their products, whose images stand together."""
        return refine(self.bundle, images, unit)


def _require_file_views(bundle: Bundle, vectors: Mapping[str, str]) -> None:
    """Raises ShelfsortError where files of vectors are given for what is no such view."""
    views = [name for name, origin in bundle.made_from["views"].items() if "file" in origin]
    if unknown := [name for name in vectors if name not in views]:
        there = (
            f"expected {' or '.join(views)}"
            if views
            else "its views are no files of vectors; give none"
        )
        raise ShelfsortError(
            f"score.vectors: {bundle.folder} has no view {unknown[0]} that is a file of vectors; {there}"
        )


def _given(
    run: Run, name: str, origin: Mapping[str, Any], vectors: Mapping[str, str]
) -> GivenVectors:
    """A view whose vectors are in a file."""
    if name not in vectors:
        raise ShelfsortError(
            f"{run.stage2}: view {name} is a file of vectors, which other photos than the store's lack; score with theirs: --set "
            f"'score.vectors={{{name}: FILE}}', or train without: {run.command('stage2', '--set', 'views={}', '--rebuild')}"
        )
    return GivenVectors(
        VectorFile(vectors[name]),
        load_head(run.view(name).view_head, origin),
    )


@dataclass(frozen=True)
class Answer:
    """A prediction for one product: class indices and confidences, the likeliest first; files left
    out with their reason."""

    classes: list[int]
    confidences: list[float]
    stage1_class: int
    refined: bool
    unreadable: dict[str, str]


def predict_files(
    model: Model, paths: Sequence[str | Path], top: int, text: str | None = None
) -> Answer:
    """The category of one product, from its photos (files or URLs) and, where a view reads it, its
    text.

    Raises ShelfsortError where no photo can be read as an image, or the text is wanting.
    """
    if text is None and model.text_view:
        raise ShelfsortError(
            f"view {model.text_view} reads the product's text: give it with --text, '' where it has none"
        )
    table = image_table(np.arange(len(paths)), np.zeros(len(paths), dtype=np.int64))
    images, errors, _ = model.read(
        [read_file(path) for path in paths], table, batch_size=64, texts=[text or ""] * len(paths)
    )
    unreadable = {str(paths[row]): str(error) for row, error in errors.items()}
    if not len(images):
        raise ShelfsortError("; ".join(f"{path}: {reason}" for path, reason in unreadable.items()))
    result = model.answer(images, "product")
    classes, confidences = top_classes(result.two_stage, top)
    return Answer(
        classes[0].tolist(),
        confidences[0].tolist(),
        int(result.pooled.log_probs[0].argmax()),
        bool(result.refined[0]),
        unreadable,
    )


def image_table(image_id: np.ndarray, product_id: np.ndarray) -> ImageTable:
    """A table of unlabelled images, for scoring: class and split are 0, nothing may be fitted."""
    zeros = np.zeros(len(image_id), dtype=np.int32)
    return ImageTable(image_id, product_id, zeros, zeros.astype(np.uint8), zeros.astype(bool))


def top_classes(log_probs: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """The `top` likeliest classes int64 [N, T] and their confidences float32 [N, T], descending;
    equal ones by class index."""
    order = np.argsort(-log_probs, axis=1, kind="stable")[:, :top]
    return order, np.exp(np.take_along_axis(log_probs, order, axis=1))
