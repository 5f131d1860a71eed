"""Which labels are likely wrong, and which pictures stand under two categories:
evaluation/review.parquet.

Every product that has features is judged, whatever its split, by discriminants that saw neither it
nor its product. Labels are ranked by self-confidence, the probability that the judge gives the
label itself (Northcutt, Jiang and Chuang, 2021; cleanlab's default ranking). cleanlab is not used:
it wants the probabilities of all products and classes at once, 2 GB for 100,000 products and 5,270
classes, and ranks alike.
"""

from collections.abc import Iterator

import numpy as np
import pandas
from scipy.optimize import minimize_scalar

from catalog.arithmetic import one_blas_thread
from catalog.errors import ArtifactError
from catalog.progress import progress
from catalog.splits import SPLITS, sample_mask
from features.store import FeatureStore
from pipeline.report.evaluated_run import EvaluatedRun
from stage1_cnn.head import log_softmax
from stage2_xgb.crossfit import folds
from stage2_xgb.dataset import Views
from stage2_xgb.expert_rows import Block
from stage2_xgb.experts import Inputs, LinearExpert
from stage2_xgb.items import mean_by_product, product_starts
from stage2_xgb.lda import Moments, fit_lda

FOLDS = 5
CALIBRATION = 5000
"""Images, about, on which the judge's confidence is calibrated."""


def review_table(run: EvaluatedRun, opinions: pandas.DataFrame) -> pandas.DataFrame:
    """Doubtful labels and pictures under several categories, by the `opinions` of `label_opinions`.

    A product whose picture another category has too is no doubt: the judge knows the picture under
    the other label, and on the demo 8 of 9 such doubts were wrong.
    """
    conflicts = _conflicts(run, opinions)
    alone = opinions[~opinions["product_id"].isin(conflicts["product_id"])]
    return pandas.concat([doubtful_labels(alone, len(run.taxonomy)), conflicts])


def label_opinions(run: EvaluatedRun) -> tuple[pandas.DataFrame, str]:
    """One row per judged product: product_id, class_index, split, answer, the probability of the
    label (self_confidence) and of the answer (confidence); and which were judged: `all` with
    features, or the `evaluated` ones of a run that has no features of its store any more."""
    if stores := feature_stores(run):
        return out_of_fold(Views(stores)), "all"
    items = run.items[run.items["unit"] == run.unit]
    columns = {
        "two_stage_class": "answer",
        "two_stage_true_confidence": "self_confidence",
        "two_stage_confidence": "confidence",
    }
    kept = ["item_id", "product_id", "class_index", *columns]
    return items[kept].rename(columns=columns).assign(split="test"), "evaluated"


def feature_stores(run: EvaluatedRun) -> list[FeatureStore]:
    """The features that the run was evaluated with; none if one of them is gone or another's."""
    views: dict = run.metrics.get("made_from", {}).get("views", {})
    stores = []
    for name, origin in views.items():
        store = FeatureStore(run.files.view(name).features_path)
        try:
            if store.made_from.get("store") != origin.get("store"):
                return []
        except ArtifactError:
            return []
        stores.append(store)
    return stores


@one_blas_thread()
def out_of_fold(views: Views, seed: int = 0) -> pandas.DataFrame:
    """The opinions of `label_opinions`, by linear discriminants of all views, each product judged
    by those of the other folds. A label that no other fold has is not judged: NaN."""
    inputs = Inputs(tuple(range(len(views.stores))), root=True)
    width = sum(store.width for store in views.stores)
    sums = [Moments.zeros(views.classes, width) for _ in range(FOLDS)]
    for table, features, _ in _blocks(views, "labels, fitting"):
        x, fold = inputs(features), folds(table.product_id, FOLDS, "label issues", seed)
        for number in np.unique(fold).tolist():
            sums[number].add(x[fold == number], table.class_index[fold == number])
    total = sums[0]
    for moments in sums[1:]:
        total = total + moments
    experts = [fit_lda(total - moments, inputs) for moments in sums]
    inverse = _inverse_temperature(views, experts, seed)
    blocks = _blocks(views, "labels, judging")
    return pandas.concat([_opinions_of(block, experts, inverse, seed) for block in blocks])


def _blocks(views: Views, doing: str) -> Iterator[Block]:
    with progress(len(views.first), doing, "img") as bar:
        for split in SPLITS:
            for block in views.features(split, fit_only=False):
                if len(block.table):
                    yield block
                    bar.update(len(block.table))


def _scores(block: Block, experts: list[LinearExpert], seed: int) -> np.ndarray:
    """Scores float32 [N, K] of the block's images, by experts that know no image of the product."""
    table, features, _ = block
    fold = folds(table.product_id, FOLDS, "label issues", seed)
    scores = np.empty((len(table), len(experts[0].bias)), dtype=np.float32)
    for number in np.unique(fold).tolist():
        own = fold == number
        scores[own] = experts[number].scores(experts[number].inputs([x[own] for x in features]))
    return scores


def _inverse_temperature(views: Views, experts: list[LinearExpert], seed: int) -> float:
    """What makes log-odds of scores: the one of least log-loss on a sample of products. Features
    are far from normal, so that raw discriminants are far too sure."""
    share = CALIBRATION / max(len(views.first), 1)
    parts = []
    for block in _blocks(views, "labels, calibrating"):
        product_id = block.table.product_id
        sample = block.rows(sample_mask(product_id, share, "calibration of label issues", seed))
        scores, truth = _scores(sample, experts, seed), sample.table.class_index
        known = np.isfinite(scores[np.arange(len(truth)), truth])
        parts.append((scores[known], truth[known]))
    scores, truth = map(np.concatenate, zip(*parts, strict=True))
    if not len(truth):
        return 0.1
    rows = np.arange(len(truth))

    def log_loss(log_inverse: float) -> float:
        scaled = log_softmax(scores * np.float32(np.exp(log_inverse)))
        return -float(scaled[rows, truth].mean(dtype=np.float64))

    minimum = minimize_scalar(log_loss, bounds=(np.log(1e-3), np.log(2)), method="bounded")
    return float(np.exp(minimum.x))


def _opinions_of(
    block: Block, experts: list[LinearExpert], inverse_temperature: float, seed: int
) -> pandas.DataFrame:
    """The opinions of the products of a block."""
    table = block.table
    log_probs = log_softmax(_scores(block, experts, seed) * np.float32(inverse_temperature))
    starts = product_starts(table.product_id)
    pooled = np.exp(log_softmax(mean_by_product(log_probs, table.product_id)))
    rows, truth = np.arange(len(starts)), table.class_index[starts]
    own = pooled[rows, truth].astype(np.float64)
    return pandas.DataFrame(
        {
            "item_id": table.product_id[starts],
            "product_id": table.product_id[starts],
            "class_index": truth,
            "split": np.array(SPLITS)[table.split[starts]],
            "answer": pooled.argmax(axis=1),
            "self_confidence": np.where(np.isfinite(log_probs[starts, truth]), own, np.nan),
            "confidence": pooled.max(axis=1).astype(np.float64),
        }
    )


def doubtful_labels(opinions: pandas.DataFrame, classes: int) -> pandas.DataFrame:
    """Labels that the judge contradicts with confidence, the least likely label first.

    A class's threshold is its mean self-confidence, the mean probability of the class over the
    products that carry its label. A label is doubtful if the answer is another class whose
    threshold the answer's probability reaches (confident learning).
    """
    with_opinion = opinions[opinions["self_confidence"].notna()]
    truth, answer = with_opinion["class_index"].to_numpy(), with_opinion["answer"].to_numpy()
    own = with_opinion["self_confidence"].to_numpy(dtype=np.float64)
    support = np.bincount(truth, minlength=classes)
    threshold = np.bincount(truth, weights=own, minlength=classes) / np.maximum(support, 1)
    sure = with_opinion["confidence"].to_numpy() >= threshold[answer]
    doubts = with_opinion[(truth != answer) & (support[answer] > 0) & sure]
    doubts = doubts.sort_values(["self_confidence", "product_id"], kind="stable")
    return pandas.DataFrame(
        {
            "kind": "doubt",
            "group": np.arange(len(doubts)),
            "item_id": doubts["item_id"].to_numpy(),
            "product_id": doubts["product_id"].to_numpy(),
            "split": doubts["split"].to_numpy(),
            "class_index": doubts["class_index"].to_numpy(dtype=np.int32),
            "suggested_class": doubts["answer"].to_numpy(dtype=np.int32),
            "self_confidence": doubts["self_confidence"].to_numpy(),
            "suggested_confidence": doubts["confidence"].to_numpy(),
            "threshold": threshold[doubts["answer"].to_numpy()],
        }
    )


def _conflicts(run: EvaluatedRun, opinions: pandas.DataFrame) -> pandas.DataFrame:
    """Products that show the same picture under different categories, one row per image, groups
    ranked by the least believed label; those without an opinion come last.

    Often no label is wrong: a picture may show two products.
    """
    if run.store is None:
        return pandas.DataFrame({"product_id": []})
    rows = pandas.DataFrame(run.store.conflicts()._asdict())
    rows = rows.rename(columns={"group": "picture", "image_id": "item_id"})
    with_opinion = opinions.drop_duplicates("product_id").set_index("product_id")
    with_opinion = with_opinion.reindex(rows["product_id"]).reset_index(drop=True)
    rows["split"] = with_opinion["split"].fillna("")
    rows["suggested_class"] = with_opinion["answer"].fillna(-1).astype(np.int32)
    rows["self_confidence"] = with_opinion["self_confidence"].astype(np.float64)
    rows["suggested_confidence"] = with_opinion["confidence"].astype(np.float64)
    doubt = rows.groupby("picture")["self_confidence"].transform("min").fillna(2.0)
    rows = rows.assign(doubt=doubt).sort_values(["doubt", "picture", "item_id"], kind="stable")
    rows["group"] = pandas.factorize(rows["picture"])[0]
    rows = rows.assign(kind="conflict", class_index=rows["class_index"].astype(np.int32))
    return rows.drop(columns=["picture", "doubt"])
