"""The only inference path: images of a product -> features -> log-probabilities -> pooled -> refined.

Evaluation, scoring and single predictions all end in `Model.answer`; they differ in where the features come from.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from catalog.artifacts import differences
from catalog.errors import ArtifactError, ShelfsortError
from catalog.store import POSITIONS, ImageTable
from catalog.taxonomy import Taxonomy
from pipeline.runs import Run
from stage1_cnn.dataset import Blobs, batches
from stage1_cnn.device import decode_threads
from stage1_cnn.predict import Predictor
from stage2_xgb.bundle import Bundle
from stage2_xgb.items import Pooled, pool
from stage2_xgb.refine import Refined, refine


@dataclass
class Model:
    """Both stages of a run, ready to answer. `predictors` holds stage 1's network and those of the further views."""

    predictors: tuple[Predictor, ...]
    bundle: Bundle

    @classmethod
    def open(cls, run: Run, device: str = "auto", precision: str = "auto") -> "Model":
        """Loads checkpoint and bundle. Raises ArtifactError where one is missing, damaged, or made from another checkpoint."""
        bundle = Bundle.open(run.stage2)
        predictors = tuple(
            Predictor.open(part.checkpoint, device=device, precision=precision) for part in run.views(bundle.made_from["views"])
        )
        for predictor, (name, origin) in zip(predictors, bundle.made_from["views"].items(), strict=True):
            found = {"checkpoint": predictor.fingerprint, "transform": predictor.transform.to_json()}
            if changes := differences(found, {key: origin[key] for key in found}):
                raise ArtifactError(run.stage2, f"view {name} is another one now: {'; '.join(changes)}", run.command("stage2"))
        return cls(predictors, bundle)

    @property
    def taxonomy(self) -> Taxonomy:
        """The categories."""
        return self.predictors[0].taxonomy

    def read(self, source: Blobs, table: ImageTable, batch_size: int) -> tuple[Pooled, dict[int, str]]:
        """Log-probabilities and features of the readable images of `table`, and row -> reason of the others."""
        features = []
        for predictor in self.predictors:
            rows, found, reasons = _features(predictor, source, table, batch_size)
            features.append(found)
        return Pooled.images(table[rows], features, [predictor.head for predictor in self.predictors]), reasons

    def answer(self, pooled: Pooled, unit: str) -> Refined:
        """Both stages' opinion of images or pooled products."""
        return refine(self.bundle, pooled, unit)


def _features(
    predictor: Predictor, source: Blobs, table: ImageTable, batch_size: int
) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:  # fmt: skip
    """Readable rows of `table`, their features float16 [n, D], and row -> reason of the unreadable."""
    features, readable, reasons = [np.zeros((0, predictor.width), dtype=np.float16)], [np.zeros(0, dtype=np.int64)], {}
    workers = decode_threads("auto", predictor.engine.device)
    loader = batches(source, table, predictor.transform, batch_size=batch_size, workers=workers)
    with contextlib.closing(loader) as found:
        for batch in found:
            features.append(predictor.features(batch.pixels)[batch.readable])
            readable.append(batch.rows[batch.readable])
            reasons |= batch.reasons
    return np.concatenate(readable), np.concatenate(features), reasons


@dataclass(frozen=True)
class Files:
    """Image files as a source of images: image id = position."""

    paths: Sequence[Path]

    def read(self, image_ids: Sequence[int]) -> list[bytes]:
        """The bytes of some files. Raises ShelfsortError where one can't be read."""
        return [_read(self.paths[int(i) % POSITIONS]) for i in image_ids]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ShelfsortError(f"{path}: can't be read: {error.strerror}") from error


@dataclass(frozen=True)
class Answer:
    """A prediction for one product: class indices and confidences, the likeliest first; unreadable files with their reason."""

    classes: list[int]
    confidences: list[float]
    stage1_class: int
    refined: bool
    unreadable: dict[str, str]


def predict_files(model: Model, paths: Sequence[Path], top: int) -> Answer:
    """The category of one product, from its photo files. Raises ShelfsortError where none can be read as an image."""
    unknown = np.full(len(paths), -1, dtype=np.int64)  # no product of the store, whose neighbours would leave it out
    table = image_table(np.arange(len(paths)), unknown)
    images, reasons = model.read(Files(paths), table, batch_size=64)
    unreadable = {str(paths[row]): reason for row, reason in reasons.items()}
    if not len(images):
        raise ShelfsortError("; ".join(f"{path}: {reason}" for path, reason in unreadable.items()))
    pooled = pool(images, model.bundle.sharpness)
    result = model.answer(pooled, "product")
    classes, confidences = top_classes(result.two_stage, top)
    return Answer(
        classes[0].tolist(), confidences[0].tolist(), int(pooled.log_probs[0][0].argmax()), bool(result.refined[0]), unreadable
    )


def image_table(image_id: np.ndarray, product_id: np.ndarray) -> ImageTable:
    """A table of unlabelled images, for scoring: class and split are 0, nothing may be fitted."""
    zeros = np.zeros(len(image_id), dtype=np.int32)
    return ImageTable(image_id, product_id, zeros, zeros.astype(np.uint8), zeros.astype(bool))


def top_classes(log_probs: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """The `top` likeliest classes int64 [N, T] and their confidences float32 [N, T], descending; equal ones by class index."""
    order = np.argsort(-log_probs, axis=1, kind="stable")[:, :top]
    return order, np.exp(np.take_along_axis(log_probs, order, axis=1))
