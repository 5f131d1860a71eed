"""The figure `attention`: where a network with landmarks looks, on photos of validation."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from catalog.artifacts import atomic_path
from catalog.errors import ShelfsortError
from pipeline.networks import open_network
from pipeline.report.figures import STYLE, WRONG
from pipeline.run_folder import Run
from stage1_cnn.dataset import decode_all


def draw_attention(run: Run, out: Path, products: int = 4) -> Path:
    """Draws the first photo of some products, spread over val_a: attention over it, and the
    likeliest place of each landmark.

    Raises ConfigError where the network has no attention map, ShelfsortError where val_a has no
    readable photo.
    """
    predictor = open_network(run.checkpoint, device="cpu", precision="fp32")
    table = run.store.images("val_a")
    first = np.unique(table.product_id, return_index=True)[1]
    first = (
        np.sort(first)[np.unique(np.linspace(0, len(first) - 1, products).astype(int))]
        if len(first)
        else first
    )
    photos, _, _ = decode_all(run.store.read(table.image_id[first]))
    if not photos:
        raise ShelfsortError(f"{run.store.path}: no readable photo on val_a")
    maps, attention = predictor.attention_maps(predictor.transform(photos))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3 * len(photos), 6.4), layout="constrained")
        axes = figure.subplots(2, len(photos), squeeze=False)
        for column, photo in enumerate(photos):
            _draw(axes[:, column], photo, maps[column], attention[column, 0])
        shown = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, 1), "magma")
        figure.colorbar(shown, ax=axes[1], label="attention", shrink=0.7)
        with atomic_path(out) as temporary:
            figure.savefig(
                temporary,
                format=out.suffix[1:],
                metadata={"Date": None} if out.suffix == ".svg" else None,
            )
    return out


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
