"""`shelfsort similar`: products of the catalogue that look like some photos.

On disk, in RUN/similar/: the index, and features.h5 if the run's own features are not in fp32."""

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from catalog.config import SourcesConfig
from catalog.errors import ShelfsortError
from catalog.fetch import require_files
from catalog.files import ACCESS
from catalog.image_table import POSITIONS
from catalog.lock import run_lock
from catalog.parallel import cores
from catalog.sources.keys import Key
from catalog.store.reader import Store
from catalog.taxonomy import Category, Taxonomy
from features.extract import extract, made_from
from features.similar import SHORTLIST, SimilarIndex, build, current
from features.store import FeatureStore
from features.writer import discard_partial
from pipeline.networks import open_network
from pipeline.run_folder import RunFolder
from pipeline.views import relabel_features
from stage1_cnn.predict import Predictor, photo_features

LOOK_UPS: dict[str, Any] = {"device": "cpu", "precision": "fp32"}
"""How look-ups compute, whatever the run does: with less precision, a copy of a photo may come
after other photos."""
COLUMNS = ("product_id", "position", "cosine", "category_id", "level1", "level2", "level3")
_BATCH = 64


@dataclass(frozen=True)
class SimilarProduct:
    """A product of the catalogue, the position of its most similar image, and the cosine of the
    two images' features (1: the same direction)."""

    product_id: Key
    position: int
    cosine: float
    category: Category


@dataclass
class Finder:
    """Stage 1's network and the index over its features, ready to look photos up."""

    predictor: Predictor
    index: SimilarIndex
    catalogue: Store
    taxonomy: Taxonomy

    @classmethod
    def open(cls, run: RunFolder, *, rebuild: bool = False) -> "Finder":
        """Opens the run's index; builds it first if there is none of these features, if labels were
        corrected since, or if `rebuild`.

        Raises ArtifactError if the features are not the checkpoint's, or the index is damaged.
        """
        run.require_features()
        folder = run.folder / "similar"
        predictor = open_network(run.checkpoint, **LOOK_UPS)
        features = run.features
        if not _as_look_ups(features.computed_with):
            features = FeatureStore(folder / "features.h5")
        if rebuild or not current(folder, features) or _earlier_labels(run, features):
            with run_lock(run.folder):
                if features is not run.features:
                    features = _extract_again(predictor, run, features.path, rebuild)
                build(folder, features)
        features.require(made_from(predictor, run.store.fingerprint))
        return cls(predictor, SimilarIndex.open(folder, features), run.store, run.store.taxonomy)

    def products(self, queries: np.ndarray, top: int) -> list[SimilarProduct]:
        """The `top` products most similar to the features [Q, D] of one product's photos, the most
        similar first. Of two products the most similar pair of images counts."""
        table, shortlist = self.index.store.table, max(SHORTLIST, 4 * top)
        while True:
            rows, cosines = (x.ravel() for x in self.index.nearest(queries, shortlist))
            order = np.argsort(-cosines, kind="stable")
            order = order[np.isfinite(cosines[order])]
            first = np.sort(np.unique(table.product_id[rows[order]], return_index=True)[1])[:top]
            if len(first) == top or shortlist >= len(table):
                break
            shortlist *= 4  # one product has very many of the nearest images
        return [self._product(int(rows[i]), float(cosines[i])) for i in order[first]]

    def _product(self, row: int, cosine: float) -> SimilarProduct:
        table = self.index.store.table
        category = self.taxonomy[int(table.class_index[row])]
        [key] = self.catalogue.keys(table.product_id[[row]])
        return SimilarProduct(key, int(table.image_id[row] % POSITIONS), cosine, category)


def _as_look_ups(computed_with: dict[str, str]) -> bool:
    """Whether features serve look-ups; by whichever runtime, as these differ in last bits alone."""
    return all(computed_with[key] == value for key, value in LOOK_UPS.items())


def _earlier_labels(run: RunFolder, features: FeatureStore) -> bool:
    """Whether features, of which there is an index, have labels that were corrected since."""
    return run.with_labels_of_now(features.made_from) != features.made_from


def _extract_again(predictor: Predictor, run: RunFolder, path: Path, rebuild: bool) -> FeatureStore:
    """Features for look-ups, if the run's own are of another precision or device. Interrupted, it
    resumes; after corrections of labels none is extracted again."""
    run.store.verify()
    if rebuild:
        discard_partial(path)
    if rebuild or not path.exists():
        extract(predictor, run.store, path, batch_size=_BATCH, lanes=cores())
    relabel_features(run, path)
    return FeatureStore(path)


def find_similar(
    finder: Finder, paths: Sequence[str | Path], top: int, access: SourcesConfig = ACCESS
) -> tuple[list[SimilarProduct], dict[str, str]]:
    """Products that look like the one in the photos, files or URLs; and path -> reason for photos
    that are left out.

    Raises ShelfsortError if none can be read as an image.
    """
    features, _, reasons = photo_features(finder.predictor, require_files(paths, access))
    unreadable = {str(paths[position]): reason for position, reason in reasons.items()}
    if not len(features):
        raise ShelfsortError("; ".join(f"{path}: {reason}" for path, reason in unreadable.items()))
    return finder.products(features, top), unreadable


def table_text(products: Sequence[SimilarProduct]) -> str:
    """For a terminal: one line per product."""
    width = max((len(str(p.product_id)) for p in products), default=0)
    lines = [f"{'cosine':>6s}  {'product':>{width}s}  image  category"]
    for p in products:
        levels = (p.category.level1, p.category.level2, p.category.level3)
        names = " > ".join(name for name in levels if name)
        image = f"{p.cosine:6.3f}  {p.product_id:>{width}}  {p.position:5d}"
        lines.append(f"{image}  {p.category.category_id}  {names}".rstrip())
    return "\n".join(lines)


def print_csv(products: Sequence[SimilarProduct]) -> None:
    """To standard output, with COLUMNS as its header."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    for p in products:
        c = p.category
        writer.writerow(
            [
                p.product_id,
                p.position,
                f"{p.cosine:.6f}",
                c.category_id,
                c.level1,
                c.level2,
                c.level3,
            ]
        )
