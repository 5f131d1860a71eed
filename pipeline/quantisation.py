"""Networks in int8: calibrated on photos of val_a, and refused if they lose too much of val_b.

On disk, beside the checkpoint: int8.onnx and int8.json.
"""

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np

from catalog.errors import ShelfsortError
from catalog.parallel import cores
from pipeline.networks import open_network
from pipeline.run_folder import RunFolder, Say
from stage1_cnn.dataset import in_parts, load
from stage1_cnn.device import inference_compute, ordered
from stage1_cnn.onnx import Inference, by_onnxruntime, keep_beside, read_beside, read_onnx
from stage1_cnn.predict import PROCESSOR_BATCH, Predictor
from stage1_cnn.quantise import QUANTISED, quantise
from stage1_cnn.runtimes import require_usable

MOST_LOST = 0.003
"""Of top-1 on val_b, by int8."""
_CALIBRATION, _EVALUATED = 512, 5000
"""Photos at most: of val_a for the ranges of activations, of val_a and val_b to be evaluated on."""
_KEPT_IN_FP32 = (0.0, 0.3)
"""Shares of layers that stay in fp32, one after the other until val_a loses little enough."""


def keep_int8(view_folder: RunFolder, say: Say) -> None:
    """Quantises a view's network; does nothing if that is done.

    Raises ShelfsortError if it loses more than MOST_LOST of val_b, by stage 1's own top-1 per
    image, or a package is missing.
    """
    require_usable("onnx", inference_compute("cpu", "int8"))
    checkpoint = view_folder.checkpoint
    if read_beside(checkpoint, QUANTISED, view_folder.stage1_checksum()) is not None:
        return
    predictor = open_network(checkpoint, device="cpu", precision="fp32")
    photos = {split: SplitPhotos(view_folder, split, predictor) for split in ("val_a", "val_b")}
    exact = by_onnxruntime(read_onnx(predictor, checkpoint))
    batches = photos["val_a"].batches(_CALIBRATION)
    for share in _KEPT_IN_FP32:
        network, in_fp32 = quantise(predictor, batches, keep=share)
        quantised = by_onnxruntime(network)
        lost_of_val_a = photos["val_a"].lost(exact, quantised)
        if lost_of_val_a <= MOST_LOST:
            break
    lost = photos["val_b"].lost(exact, quantised)
    loss = f"int8 loses {100 * lost:.2f} points of {photos['val_b'].count} photos of val_b"
    if lost > MOST_LOST:
        raise ShelfsortError(
            f"{checkpoint}: {loss}, expected at most {100 * MOST_LOST:.1f}; set features.precision "
            "and score.precision to fp32"
        )
    figures = {"layers_in_fp32": in_fp32, "lost": {"val_a": lost_of_val_a, "val_b": lost}}
    keep_beside(checkpoint, QUANTISED, predictor.fingerprint, network, figures)
    path = checkpoint.with_name(f"{QUANTISED}.onnx")
    say(f"features: {loss}, {in_fp32} layers stay in fp32 -> {path}")


def keep_int8_networks(run: RunFolder, views: Iterable[str], say: Say) -> None:
    """As `keep_int8`, of all views that are networks."""
    for name in views:
        if run.view(name).checkpoint.exists():
            keep_int8(run.view(name), say)


class SplitPhotos:
    """The readable photos of a split, spread over it, as a network takes them."""

    def __init__(self, view_folder: RunFolder, split: str, predictor: Predictor) -> None:
        self._store, self._predictor = view_folder.store, predictor
        self._table = self._store.images(split)
        self.count = min(len(self._table), _EVALUATED)
        if not self.count:
            raise ShelfsortError(
                f"{self._store.path}: no photo on {split}, on which int8 is measured"
            )

    def _rows(self, count: int) -> np.ndarray:
        return np.unique(np.linspace(0, len(self._table) - 1, count).astype(np.int64))

    def batches(self, count: int) -> list[np.ndarray]:
        """At most so many, uint8 [B, H, W, 3] each."""
        return [pixels for pixels, _ in self._read(min(count, self.count))]

    def _read(self, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pixels of the readable ones of so many, and their classes, a batch at a time."""
        for rows in in_parts(self._rows(count), PROCESSOR_BATCH):
            batch = load(self._store, self._table, rows, self._predictor.transform)
            pixels = batch.pixels.permute(0, 2, 3, 1).numpy()[batch.readable]
            if len(pixels):
                yield np.ascontiguousarray(pixels), batch.labels.numpy()[batch.readable]

    def lost(self, exact: Inference, quantised: Inference) -> float:
        """Share of the photos that `exact` answers right, less that of `quantised`."""
        lost = ordered(partial(self._lost, exact, quantised), self._read(self.count), cores())
        return float(np.concatenate(list(lost)).mean())

    def _lost(
        self, exact: Inference, quantised: Inference, batch: tuple[np.ndarray, np.ndarray]
    ) -> np.ndarray:
        """1 for each photo that is right by `exact` alone, -1 by `quantised` alone, else 0."""
        pixels, classes = batch
        right = [
            self._predictor.head.log_probs(run(pixels).astype(np.float16)).argmax(axis=1) == classes
            for run in (exact, quantised)
        ]
        return right[0].astype(int) - right[1]
