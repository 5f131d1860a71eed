"""Photos that need a look: blurred, dark, odd-sized, unlike the rest of their category, or nearly
the same as another product's. evaluation/problems.parquet, and the measures of the photos,
evaluation/photos.parquet.

Of a large store a sample is looked at: all photos of the test split up to SAMPLE images, and as
many of the other splits. Nothing is changed or left out.
"""

from collections.abc import Sequence

import numpy as np
import pandas

from catalog.config import MOST_PIXELS
from catalog.errors import ImageError
from catalog.image_table import ImageTable
from catalog.images import decode
from catalog.progress import progress
from catalog.splits import SPLITS, sample_mask
from catalog.store.reader import Store
from features.neighbours import unit
from features.schema import DONE
from features.store import FeatureStore

SAMPLE = 5000
"""Images of test, and of all other splits, that are looked at."""
BLURRED = 0.1
"""Of the median sharpness."""
DARK = 0.12
"""Mean brightness, 1 being white."""
ODD = 2.0
"""Times the median of width by height, or of the longer side, or as many times less."""
OUTLYING = 3.0
"""Interquartile ranges below the first quartile of the cosines to the mean of the category."""
DUPLICATE = 0.98
"""Cosine in every view, from which two photos of different products are nearly the same."""
KINDS = ("blurred", "dark", "odd_size", "outlying", "near_duplicate")
NO_PHOTOS = pandas.DataFrame(
    columns=[
        *("image_id", "product_id", "class_index", "width", "height", "brightness", "sharpness")
    ]
)
"""What `measure_photos` gives of no photo."""
_READ, _CLASS = 500, 1000
"""Photos that are read at a time; most photos of a category that are compared with each other."""


def sample_of(store: Store) -> ImageTable:
    """The images that are looked at, in store order."""
    table = store.images()
    test = table.split == SPLITS.index("test")
    rows = np.zeros(len(table), dtype=bool)
    for mask in (test, ~test):
        share = min(1.0, SAMPLE / max(int(mask.sum()), 1))
        rows |= mask & sample_mask(table.product_id, share, "photo checks", 0)
    return table[rows]


def measure_photos(store: Store, table: ImageTable) -> pandas.DataFrame:
    """Image by image: image_id, product_id, class_index, width, height, brightness (0 to 1) and
    sharpness (variance of the Laplacian, brightness from 0 to 1). Unreadable ones are left out."""
    rows = []
    with progress(len(table), "photos that need a look", "img") as bar:
        for start in range(0, len(table), _READ):
            block = table[start : start + _READ]
            for offset, data in enumerate(store.read(block.image_id)):
                bar.update()
                try:
                    rows.append((start + offset, *_measures(decode(data, MOST_PIXELS))))
                except ImageError:  # marked in features.h5, and listed among the rejects
                    continue
    chosen = table[np.array([row[0] for row in rows], dtype=np.int64)]
    names = ("width", "height", "brightness", "sharpness")
    return pandas.DataFrame(
        {
            "image_id": chosen.image_id,
            "product_id": chosen.product_id,
            "class_index": chosen.class_index,
            **{name: [row[k] for row in rows] for k, name in enumerate(names, start=1)},
        }
    )


def _measures(pixels: np.ndarray) -> tuple[int, int, float, float]:
    grey = pixels.mean(axis=2, dtype=np.float32) / 255
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    sharpness = float(laplacian.var()) if laplacian.size else 0.0
    return grey.shape[1], grey.shape[0], float(grey.mean()), sharpness


def problems(
    photos: pandas.DataFrame, stores: Sequence[FeatureStore], digests: Sequence[str]
) -> pandas.DataFrame:
    """The photos that need a look: kind, image_id, product_id, class_index, `value` of the measure,
    and `other`, the product that a near duplicate resembles (-1: none), the worst first."""
    tables = list(_by_eye(photos))
    if stores and len(photos):
        tables += _by_features(photos, stores, digests)
    columns = ["kind", "image_id", "product_id", "class_index", "value", "other"]
    empty = pandas.DataFrame({name: [] for name in columns})
    return pandas.concat([empty, *tables], ignore_index=True)[columns].astype(
        {"image_id": np.int64, "product_id": np.int64, "class_index": np.int32, "other": np.int64}
    )


def _by_eye(photos: pandas.DataFrame) -> list[pandas.DataFrame]:
    """What the measures of a photo alone say."""
    if not len(photos):
        return []
    sharpness, longer = photos["sharpness"], photos[["width", "height"]].max(axis=1)
    shape = photos["width"] / photos["height"]
    odd = pandas.concat([np.log(x / x.median()).abs() for x in (shape, longer)], axis=1).max(axis=1)
    checks = {
        "blurred": (sharpness, sharpness < BLURRED * sharpness.median()),
        "dark": (photos["brightness"], photos["brightness"] < DARK),
        "odd_size": (np.exp(odd), odd > np.log(ODD)),
    }
    tables = []
    for kind, (value, chosen) in checks.items():
        rows = photos[chosen].assign(kind=kind, value=value[chosen], other=-1)
        tables.append(rows.sort_values("value", ascending=kind != "odd_size", kind="stable"))
    return tables


def _by_features(
    photos: pandas.DataFrame, stores: Sequence[FeatureStore], digests: Sequence[str]
) -> list[pandas.DataFrame]:
    """What stands out among the features, or is nearly the same."""
    table = stores[0].table
    readable = np.all([store.status == DONE for store in stores], axis=0)
    rows = np.flatnonzero(np.isin(table.image_id, photos["image_id"]) & readable)
    photo_row = pandas.Series(np.arange(len(photos)), index=photos["image_id"])
    photo_row = photo_row[table.image_id[rows]].to_numpy()
    views = [unit(store.features_at(rows)) for store in stores]
    picture = np.unique(np.asarray(digests), return_inverse=True)[1][photo_row]
    typical, pairs = np.full(len(rows), np.nan), []
    for class_index in np.unique(table.class_index[rows]).tolist():
        of_class = np.flatnonzero(table.class_index[rows] == class_index)[:_CLASS]
        if len(of_class) > 2:
            features = np.concatenate([view[of_class] for view in views], axis=1)
            others = features.sum(axis=0) - features
            typical[of_class] = (unit(features) * unit(others)).sum(axis=1)
        pairs += _near_duplicates(views, of_class, table.product_id[rows], picture)
    return [_outliers(photos.iloc[photo_row], typical), _duplicates(photos.iloc[photo_row], pairs)]


def _near_duplicates(
    views: Sequence[np.ndarray], rows: np.ndarray, product: np.ndarray, picture: np.ndarray
) -> list[tuple[int, int, float]]:
    """Pairs of rows of different products and different bytes, and their least cosine."""
    least = np.min([view[rows] @ view[rows].T for view in views], axis=0)
    other = product[rows][:, None] != product[rows]
    other &= picture[rows][:, None] != picture[rows]
    first, second = np.nonzero(np.triu(other & (least > DUPLICATE), 1))
    return list(zip(rows[first], rows[second], least[first, second], strict=True))


def _outliers(photos: pandas.DataFrame, typical: np.ndarray) -> pandas.DataFrame:
    known = typical[np.isfinite(typical)]
    low, high = np.quantile(known, [0.25, 0.75]) if len(known) else (np.nan, np.nan)
    outliers = photos[typical < low - OUTLYING * (high - low)]
    value = typical[typical < low - OUTLYING * (high - low)]
    return outliers.assign(kind="outlying", value=value, other=-1).sort_values(
        "value", kind="stable"
    )


def _duplicates(
    photos: pandas.DataFrame, pairs: Sequence[tuple[int, int, float]]
) -> pandas.DataFrame:
    ordered = sorted(pairs, key=lambda pair: -pair[2])
    first, second = ([pair[k] for pair in ordered] for k in (0, 1))
    return photos.iloc[first].assign(
        kind="near_duplicate",
        value=[pair[2] for pair in ordered],
        other=photos["product_id"].to_numpy()[second],
    )
