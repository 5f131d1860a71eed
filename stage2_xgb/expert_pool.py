"""The pool of experts: stage 1, linear experts and neighbours, their opinions added with one weight
each (a logarithmic opinion pool, Genest and Zidek 1986). Answers with numpy alone; fitted by
fit_experts.py; on disk it is a set of named arrays.

A product's opinion is the mean of its images' opinions. Each weight may grow with the logarithm of
the number of images, because several images that agree say more than one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from features.neighbours import STRANGER, Bank
from stage1_cnn.head import log_softmax
from stage2_xgb.experts import (
    CANDIDATES,
    Inputs,
    LinearExpert,
    NeighbourExpert,
    OneHot,
    bounded,
    highest,
)
from stage2_xgb.items import (
    ItemBlock,
    Projection,
    has_columns,
    images_by_product,
    mean_by_product,
    product_starts,
)

LARGEST_RATIO = 6.0
"""Log ratio of a class's shares in the target and the train mix, at most."""
LEAST_SHARE = 1e-6
"""Share of a class in the target mix, at least."""
WEIGHTS = ("plain", "growth", "mix")
_ROWS = 512
"""Images at once: their opinions of thousands of classes stay in the processor's cache."""


@dataclass(frozen=True)
class Weights:
    """Of one unit: a term f of the score of an item of n images weighs plain[f] + growth[f] *
    log(n), both float64 [E + 2]. The terms are the experts' opinions, then the rows of `mix`
    float32 [2, K], which class frequencies add (`mix_terms`)."""

    plain: np.ndarray
    growth: np.ndarray
    mix: np.ndarray


@dataclass(frozen=True)
class ExpertPool:
    """All experts and each unit's weights. Stage 1 comes first, then `linear`, then `neighbours`,
    if any photos were fitted. If one of the experts reads columns, `bare` are the weights of items
    that have none, which are answered as if there were no such expert."""

    linear: tuple[LinearExpert, ...]
    neighbours: NeighbourExpert | None
    weights: Mapping[str, Weights]
    bare: Mapping[str, Weights] = field(default_factory=dict)

    @property
    def logistic(self) -> LinearExpert | None:
        """The logistic regression on the views, if there is one."""
        for expert in self.linear:
            if isinstance(expert.inputs, Inputs) and not expert.inputs.root:
                return expert
        return None

    @property
    def reads_columns(self) -> bool:
        """Whether one of the experts does."""
        return any(isinstance(expert.inputs, OneHot) for expert in self.linear)

    def __len__(self) -> int:
        return 1 + len(self.linear) + (self.neighbours is not None)

    def prepare(self, images: ItemBlock) -> dict[Inputs | OneHot, np.ndarray]:
        """Each kind of inputs that an expert sees, float32 [N, D]."""
        distinct: set[Inputs | OneHot] = {expert.inputs for expert in self.linear}
        if self.neighbours is not None:
            distinct.add(self.neighbours.inputs)
        return {inputs: inputs.of(images) for inputs in distinct}

    def linear_opinions(
        self, images: ItemBlock, prepared: Mapping[Inputs | OneHot, np.ndarray]
    ) -> Iterator[np.ndarray]:
        """Opinions float32 [N, K] of stage 1 and of each linear expert, of single images: of one
        that reads columns 0 where there are none."""
        yield bounded(images.log_probs.copy())
        for expert in self.linear:
            scores = expert.scores(prepared[expert.inputs])
            opinion = bounded(scores, expert.inverse_temperature)
            if isinstance(expert.inputs, OneHot):
                opinion[~has_columns(images.codes)] = 0
            yield opinion

    def opinions(self, images: ItemBlock) -> np.ndarray:
        """Every expert's opinion of single images, float32 [E, N, K], up to a constant of each
        image."""
        prepared, expert = self.prepare(images), self.neighbours
        opinions = list(self.linear_opinions(images, prepared))
        if expert is not None:
            candidates = highest(np.sum(opinions, axis=0), CANDIDATES)
            opinions.append(np.zeros_like(opinions[0]))
            z = expert.projection(prepared[expert.inputs])
            votes = expert.log_votes(z, images.product_id, candidates)
            np.put_along_axis(opinions[-1], candidates, votes, axis=1)
        return np.stack(opinions)

    def distances(self, images: ItemBlock) -> tuple[np.ndarray, np.ndarray]:
        """How far single images are from the mean of the nearest class, and of the nearest but
        their own, float32 [N]: by the discriminants' covariance, against the distance from the mean
        of all (relative Mahalanobis distance, Ren et al. 2021), half its square. NaN without
        discriminants."""
        if not self.linear:
            unknown = np.full(len(images), np.nan, dtype=np.float32)
            return unknown, unknown
        expert = self.linear[0]
        scores = expert.scores(expert.inputs.of(images))
        nearest = -scores.max(axis=1)
        scores[np.arange(len(images)), images.class_index] = -np.inf
        return nearest, -scores.max(axis=1)

    def log_probs(self, images: ItemBlock, unit: str, *, strangers: bool = True) -> np.ndarray:
        """The pool's log-probabilities float32 [N, K] of single images, or of their products if
        `unit` is `product`; images of a product stand together, and products come in the order of
        their images.

        `strangers` have no photo among the neighbours, whatever their product id: another shop's
        product may have the id of one of ours, and photos alone, as `predict` and the exported
        reader have them, have none. So equal photos get equal answers however they are asked for.
        """
        known = None if strangers else images.product_id
        plain, growth, weights_row = self._weights(images, unit)
        added = [weights[:, len(self) :] @ self.weights[unit].mix for weights in (plain, growth)]
        if unit == "image":
            (scores,) = self._sums(images, known, plain[weights_row])
            scores += _of_row(added[0], weights_row)
            return log_softmax(scores)
        sums = self._sums(images, known, plain[weights_row], growth[weights_row])
        scores, grown = (mean_by_product(x, images.product_id) for x in sums)
        weights_row = weights_row[product_starts(images.product_id)]
        grown += _of_row(added[1], weights_row)
        grown *= np.log(images_by_product(images.product_id)).astype(np.float32)[:, None]
        scores += grown
        scores += _of_row(added[0], weights_row)
        return log_softmax(scores)

    def _weights(self, images: ItemBlock, unit: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Plain weight and growth of each term, float32 [W, E + 2], of each of W kinds of items,
        and each image's row of these, int [N]: 1 if it is without columns in a pool that reads
        them."""
        by_row = [self.weights[unit], *([self.bare[unit]] if self.bare else [])]
        plain, growth = (
            np.stack([getattr(weights, name) for weights in by_row]).astype(np.float32)
            for name in ("plain", "growth")
        )
        if not self.bare:
            return plain, growth, np.zeros(len(images), dtype=np.int64)
        return plain, growth, (~has_columns(images.codes)).astype(np.int64)

    def _sums(
        self, images: ItemBlock, known: np.ndarray | None, *weights: np.ndarray
    ) -> list[np.ndarray]:
        """The experts' opinions float32 [N, K], each times its weight of `weights` [N, E + 2],
        added; once for each of these. Neighbours, but for those of the product `known` [N], are
        asked for all images at once, because that goes through the photos class by class."""
        sums = [np.zeros(images.log_probs.shape, dtype=np.float32) for _ in weights]
        asked: list[tuple[np.ndarray, np.ndarray]] = []
        for start in range(0, len(images), _ROWS):
            block = images.rows(rows := slice(start, start + _ROWS))
            prepared = self.prepare(block)
            likely = np.zeros(block.log_probs.shape, dtype=np.float32)
            for number, opinion in enumerate(self.linear_opinions(block, prepared)):
                likely += opinion
                for total, weight in zip(sums, weights, strict=True):
                    total[rows] += weight[rows, number, None] * opinion
            if self.neighbours is not None:
                z = self.neighbours.projection(prepared[self.neighbours.inputs])
                asked.append((z, highest(likely, CANDIDATES)))
        if self.neighbours is not None and asked:
            z, candidates = map(np.concatenate, zip(*asked, strict=True))
            known = np.full(len(images), STRANGER) if known is None else known
            votes = self.neighbours.log_votes(z, known, candidates)
            cells = np.arange(len(images))[:, None], candidates
            for total, weight in zip(sums, weights, strict=True):
                total[cells] += weight[:, len(self) - 1, None] * votes
        return sums


def _of_row(terms: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Of terms float32 [W, K] those of each item's row int [N]; [1, K] if there is one row."""
    return terms if len(terms) == 1 else terms[row]


def mix_terms(target: np.ndarray, train: np.ndarray) -> np.ndarray:
    """What class frequencies may add to a score, float32 [2, K]: log target / train, and log
    target; of two mixes [K]."""
    ratio = np.log(target / train).clip(-LARGEST_RATIO, LARGEST_RATIO)
    return np.stack([ratio, np.log(np.maximum(target, LEAST_SHARE))]).astype(np.float32)


def pool_arrays(pool: ExpertPool) -> dict[str, np.ndarray]:
    """A pool as named arrays, without objects, for an npz."""
    temperatures = np.array([expert.inverse_temperature for expert in pool.linear])
    arrays = {"inverse_temperatures": temperatures}
    for number, expert in enumerate(pool.linear):
        name = f"linear_{number}"
        arrays |= _input_arrays(name, expert.inputs)
        arrays |= {f"{name}_bias": expert.bias, f"{name}_centre": expert.centre}
        arrays |= {f"{name}_factor_{f}": factor for f, factor in enumerate(expert.factors)}
    if pool.neighbours is not None:
        bank, projection = pool.neighbours.bank, pool.neighbours.projection
        arrays |= _input_arrays("bank", pool.neighbours.inputs)
        arrays |= {"bank_mean": projection.mean, "bank_components": projection.components}
        arrays |= {"bank_vectors": bank.vectors.astype(np.float16)}
        arrays |= {"bank_product_id": bank.product_id, "bank_starts": bank.starts}
    for unit, weights in pool.weights.items():
        arrays |= {f"{name}_{unit}": getattr(weights, name) for name in WEIGHTS}
    for unit, weights in pool.bare.items():
        arrays |= {f"bare_{name}_{unit}": getattr(weights, name) for name in WEIGHTS}
    return arrays


def read_pool(arrays: Mapping[str, np.ndarray]) -> ExpertPool:
    """Inverse of pool_arrays. Raises KeyError if an array is missing."""
    temperatures = arrays["inverse_temperatures"].tolist()
    linear = tuple(_read_linear(arrays, f"linear_{n}", t) for n, t in enumerate(temperatures))
    neighbours = None
    if "bank_vectors" in arrays:
        bank = Bank(*(arrays[f"bank_{name}"] for name in ("vectors", "product_id", "starts")))
        projection = Projection(arrays["bank_mean"], arrays["bank_components"])
        neighbours = NeighbourExpert.of(_read_inputs(arrays, "bank"), projection, bank)
    units = [name.removeprefix("plain_") for name in arrays if name.startswith("plain_")]
    weights = {unit: Weights(*(arrays[f"{name}_{unit}"] for name in WEIGHTS)) for unit in units}
    bare = {}
    if any(isinstance(expert.inputs, OneHot) for expert in linear):
        bare = {u: Weights(*(arrays[f"bare_{name}_{u}"] for name in WEIGHTS)) for u in units}
    return ExpertPool(linear, neighbours, weights, bare)


def _input_arrays(prefix: str, inputs: Inputs | OneHot) -> dict[str, np.ndarray]:
    if isinstance(inputs, OneHot):
        sizes, views = np.array(inputs.sizes), np.array(inputs.views, dtype=np.int64)
        return {f"{prefix}_sizes": sizes, f"{prefix}_column_views": views}
    return {f"{prefix}_views": np.array(inputs.views), f"{prefix}_root": np.array(inputs.root)}


def _read_inputs(arrays: Mapping[str, np.ndarray], prefix: str) -> Inputs:
    return Inputs(tuple(arrays[f"{prefix}_views"].tolist()), bool(arrays[f"{prefix}_root"]))


def _read_linear(
    arrays: Mapping[str, np.ndarray], prefix: str, inverse_temperature: float
) -> LinearExpert:
    first, second = f"{prefix}_factor_0", f"{prefix}_factor_1"
    factors = (arrays[first], arrays[second]) if second in arrays else (arrays[first],)
    inputs: Inputs | OneHot
    if (sizes := f"{prefix}_sizes") in arrays:
        views = arrays.get(f"{prefix}_column_views", ())
        inputs = OneHot(tuple(arrays[sizes].tolist()), tuple(map(int, views)))
    else:
        inputs = _read_inputs(arrays, prefix)
    centre, bias = arrays[f"{prefix}_centre"], arrays[f"{prefix}_bias"]
    return LinearExpert(inputs, centre, factors, bias, inverse_temperature)
