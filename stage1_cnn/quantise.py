"""A trained network in int8: weights of 8 bits per channel, activations of 8 bits in ranges that
calibration photos have (static quantisation, by ONNX Runtime).

On disk, beside the checkpoint: int8.onnx, and int8.json, which says of which checkpoint it is and
what it was measured to lose (pipeline/quantisation.py).
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from catalog.errors import ArtifactError
from stage1_cnn.onnx import by_onnxruntime, read_beside, save_onnx
from stage1_cnn.predict import Predictor

QUANTISED = "int8"
"""Name of its files."""
_LAYERS = ("Conv", "Gemm", "MatMul")
_COMPARED = 8
"""Photos on which a layer's error is measured."""


def quantise(
    predictor: Predictor, batches: Sequence[np.ndarray], *, keep: float = 0.0
) -> tuple[bytes, int]:
    """The network in int8 as ONNX, like `save_onnx`'s, and how many layers stay in fp32: the share
    `keep` of them that change the features most if they alone are in int8, which takes some seconds
    a layer to find out.

    `batches` are calibration photos, uint8 [B, H, W, 3] of the network's own size; `predictor`
    computes on the processor.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_onnx(predictor, folder / "exported.onnx")
        plain = folder / "plain.onnx"
        quant_pre_process(str(folder / "exported.onnx"), str(plain), skip_symbolic_shape=True)
        kept = _worst_layers(plain, batches[0][:_COMPARED], keep) if keep else []
        return _quantised(plain, batches, nodes_to_exclude=kept), len(kept)


def _quantised(plain: Path, batches: Sequence[np.ndarray], **nodes: list[str]) -> bytes:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    quantised = plain.with_name("int8.onnx")
    quantize_static(
        str(plain),
        str(quantised),
        _CalibrationPhotos(batches),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        **nodes,
    )
    return quantised.read_bytes()


class _CalibrationPhotos:
    """Calibration photos as onnxruntime reads them: a batch per call, then None."""

    def __init__(self, batches: Sequence[np.ndarray]) -> None:
        self._batches: Iterator[np.ndarray] = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"pixels": batch}


def _worst_layers(plain: Path, photos: np.ndarray, share: float) -> list[str]:
    """Names of the share of layers that change the features of photos most, each alone in int8."""
    import onnx

    layers = [node.name for node in onnx.load(plain).graph.node if node.op_type in _LAYERS]
    exact = by_onnxruntime(plain.read_bytes())(photos)

    def change(name: str) -> float:
        alone = by_onnxruntime(_quantised(plain, [photos], nodes_to_quantize=[name]))
        return float(np.linalg.norm(alone(photos) - exact))

    return sorted(layers, key=change, reverse=True)[: round(share * len(layers))]


def read_quantised(predictor: Predictor, checkpoint: Path) -> bytes:
    """The quantised network beside a checkpoint. Raises ArtifactError if there is none of it."""
    kept = read_beside(checkpoint, QUANTISED, predictor.fingerprint)
    if kept is None:
        problem = "no int8 network of this checkpoint, which features.precision=int8 makes"
        raise ArtifactError(checkpoint.with_name(f"{QUANTISED}.onnx"), problem, "features")
    return kept
