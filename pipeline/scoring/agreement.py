"""How well scoring agrees with evaluation if it computes in another precision, on another device or
with another runtime: measured on products of val_b in the run's own store."""

import logging
from dataclasses import dataclass
from functools import partial

import numpy as np

from catalog.arrays import group_starts
from catalog.artifacts import differences
from catalog.errors import ArtifactError, ShelfsortError
from catalog.parallel import cores
from features import schema
from features.store import FeatureStore
from pipeline.model import TwoStageModel
from pipeline.quantisation import MOST_LOST
from pipeline.run_folder import RunFolder
from stage1_cnn.device import ordered
from stage1_cnn.predict import Predictor, photo_features
from stage2_xgb.items import ItemBlock

PHOTOS = 256
"""At most so many photos are computed again, which takes seconds."""
MOST_PHOTOS = 5000
"""At most so many to decide whether int8 may answer."""
_BATCH, _SHARE = 32, 0.99

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Agreement:
    """Of `products`, how many get the same category both ways (`same`), how far apart the
    confidences of the top category are: of 99% of the products (`most_of_99`) and of all, and how
    many get the right category either way."""

    products: int
    same: int
    most_of_99: float
    most: float
    right: tuple[int, int]

    @classmethod
    def between(cls, first: np.ndarray, second: np.ndarray, class_index: np.ndarray) -> "Agreement":
        """Of the log-probabilities [N, K] of the same products of classes int [N], computed
        twice."""
        apart = np.abs(np.exp(first.max(axis=1)) - np.exp(second.max(axis=1)))
        answers = first.argmax(axis=1), second.argmax(axis=1)
        right = tuple(int((classes == class_index).sum()) for classes in answers)
        most_of_99, most = float(np.quantile(apart, _SHARE)), float(apart.max())
        same = int((answers[0] == answers[1]).sum())
        return cls(len(first), same, most_of_99, most, (right[0], right[1]))

    @property
    def lost(self) -> float:
        """Share of the products that are right the first way, less that of the second."""
        return (self.right[0] - self.right[1]) / self.products

    def text(self) -> str:
        """For the terminal."""
        return (
            f"of {self.products} products of val_b {self.same} ({self.same / self.products:.1%}) "
            f"get the same category, their confidences within {self.most_of_99:.5f} for 99% and "
            f"{self.most:.5f} for all; {self.right[1]} are right, {self.right[0]} as evaluated"
        )


def warn_of_other_arithmetic(
    run: RunFolder, model: TwoStageModel, photos: int = PHOTOS
) -> Agreement | None:
    """Logs how the model's arithmetic differs from the evaluated one's, and how well the two agree,
    which it returns; logs nothing if it doesn't differ."""
    evaluated = model.bundle.made_from.get("computed_with", {})
    networks = {name: network for name, network in model.networks.items() if network}
    now = {name: network.computed_with for name, network in networks.items()}
    changes = {name: differences(now[name], evaluated.get(name, {})) for name in now}
    if not any(changes.values()):
        return None
    agreement = None
    try:
        agreement = measure(run, model, photos)
        agreed = agreement.text()
    except ArtifactError as error:
        agreed = f"how well the answers agree could not be measured: {error}"
    view = next(name for name in changes if changes[name])
    log.warning(
        "answers are computed otherwise than what was evaluated (%s): %s",
        "; ".join(changes[view]),
        agreed,
    )
    return agreement


def require_agreement(run: RunFolder, model: TwoStageModel) -> None:
    """As `warn_of_other_arithmetic`; raises ShelfsortError if networks in int8, where others were
    evaluated, lose more than MOST_LOST of val_b's products by both stages."""
    in_int8 = model.network.compute.precision == "int8"
    agreement = warn_of_other_arithmetic(run, model, MOST_PHOTOS if in_int8 else PHOTOS)
    if in_int8 and agreement and agreement.lost > MOST_LOST:
        raise ShelfsortError(
            f"{run.folder}: int8 loses {100 * agreement.lost:.2f} points of {agreement.products} "
            f"products of val_b by both stages, expected at most {100 * MOST_LOST:.1f}; leave out "
            "score.precision=int8, or fit stage 2 on such features, from step features on: --set "
            "features.precision=int8"
        )


def measure(run: RunFolder, model: TwoStageModel, photos: int = PHOTOS) -> Agreement:
    """Compares the model's answers to about so many photos of val_b, decoded again, with its
    answers to the run's stored features.

    Raises ArtifactError if the store or the features are missing, are not those that stage 2 was
    trained on, or have nothing on val_b.
    """
    stores = [_features(run, model, name) for name in model.networks]
    rows = _sample(stores, photos)
    images = run.store.read(stores[0].table.image_id[rows])
    stored = [store.features_at(rows) for store in stores]
    computed = [
        _again(network, images, run) if network else features
        for network, features in zip(model.networks.values(), stored, strict=True)
    ]
    table, head = stores[0].table[rows], model.network.head
    codes = model.encode([{}] * len(table))  # from photos alone: columns are the same both ways
    first, second = (
        model.answer(ItemBlock.images(table, features, head, codes), "product")
        for features in (stored, computed)
    )
    return Agreement.between(first.two_stage, second.two_stage, first.pooled.class_index)


def _features(run: RunFolder, model: TwoStageModel, name: str) -> FeatureStore:
    view_folder = run.view(name)
    if not run.store_path.exists():
        raise ArtifactError(run.store_path, "no such file; copy the whole run folder", "ingest")
    view_folder.features.require(model.bundle.made_from["views"][name])
    return view_folder.features


def _sample(stores: list[FeatureStore], photos: int) -> np.ndarray:
    """Rows int64 [N] of whole products, from all over val_b."""
    first, span = stores[0], stores[0].of_split("val_b")
    rows = np.arange(span.start, span.stop)
    rows = rows[np.all([store.status[span] == schema.DONE for store in stores], axis=0)]
    if not len(rows):
        raise ArtifactError(first.path, "has no readable photo on val_b", "features")
    starts = group_starts(first.table.product_id[rows])
    wanted = max(1, int(len(starts) * min(1, photos / len(rows))))
    chosen = starts[np.unique(np.linspace(0, len(starts) - 1, wanted).astype(int))]
    return rows[np.isin(first.table.product_id[rows], first.table.product_id[rows[chosen]])]


def _again(network: Predictor, images: list, run: RunFolder) -> np.ndarray:
    """Features float16 [N, D] of photos, as scoring computes them."""
    batches = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
    parts = list(ordered(partial(photo_features, network), batches, cores()))
    for _, _, reasons in parts:
        if reasons:
            problem = f"a photo that was readable is not: {next(iter(reasons.values()))}"
            raise ArtifactError(run.store_path, problem, "ingest")
    return np.concatenate([features for features, _, _ in parts])
