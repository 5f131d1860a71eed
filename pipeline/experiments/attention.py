"""The figure `attention`: attention maps and landmarks of a network that has them, on photos of
validation."""

from pathlib import Path

import matplotlib
import numpy as np

from catalog.config import MOST_PIXELS
from catalog.errors import ShelfsortError
from pipeline.figures import WRONG, new_figure
from pipeline.networks import open_network
from pipeline.run_folder import RunFolder
from stage1_cnn.dataset import decode_all


def draw_attention(run: RunFolder, out: Path, products: int = 4) -> Path:
    """Draws the first photo of some products, spread over val_a, with its attention map and the
    likeliest position of each landmark.

    Raises ConfigError if the network has no attention map, ShelfsortError if val_a has no readable
    photo.
    """
    predictor = open_network(run.checkpoint, device="cpu", precision="fp32")
    table = run.store.images("val_a")
    rows = _spread(table.product_id, products)
    photos, _, _ = decode_all(run.store.read(table.image_id[rows]), max_pixels=MOST_PIXELS)
    if not photos:
        raise ShelfsortError(f"{run.store.path}: no readable photo on val_a")
    maps, attention = predictor.attention_maps(predictor.transform(photos))
    with new_figure(3 * len(photos), 6.4, out) as figure:
        axes = figure.subplots(2, len(photos), squeeze=False)
        for column, photo in enumerate(photos):
            _draw(axes[:, column], photo, maps[column], attention[column, 0])
        shown = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, 1), "magma")
        figure.colorbar(shown, ax=axes[1], label="attention", shrink=0.7)
    return out


def _spread(product_id: np.ndarray, products: int) -> np.ndarray:
    """The first row of so many products, or fewer, evenly spread over the table."""
    first = np.sort(np.unique(product_id, return_index=True)[1])
    if not len(first):
        return first
    return first[np.unique(np.linspace(0, len(first) - 1, products).astype(int))]


def _draw(axes: np.ndarray, photo: np.ndarray, maps: np.ndarray, attention: np.ndarray) -> None:
    height, width = photo.shape[:2]
    rows, columns = np.divmod(maps.reshape(len(maps), -1).argmax(axis=1), maps.shape[2])
    axes[0].imshow(photo)
    axes[0].scatter(
        (columns + 0.5) * width / maps.shape[2],
        (rows + 0.5) * height / maps.shape[1],
        s=18,
        color=WRONG,
    )
    axes[1].imshow(photo, alpha=0.45)
    extent = (0, width, height, 0)
    axes[1].imshow(
        attention, cmap="magma", vmin=0, vmax=1, alpha=0.6, extent=extent, interpolation="bilinear"
    )
    for axis in axes:
        axis.set(xticks=[], yticks=[])
        axis.grid(visible=False)
