"""One core: the bare network by PyTorch, eager and traced, and by the other runtimes, in batches of
16 and 64, and with other numbers of images at once than stage1_cnn.runtimes.BATCH; and end to end,
from a dump's photos to Parquet with both stages, by PyTorch alone, as before there were other
runtimes, and by the fastest of them.

ResNet-50 at 224 and MobileNetV2 at 96 on photos of 180x180; images a second, medians of rounds in
turns. All get uint8 and normalise in their own graph, but for `outside`: ONNX Runtime with floats
that PyTorch normalises in the same time. Run:
OMP_NUM_THREADS=1 taskset -c 0 python -m benchmarks.runtimes [--rounds N] [--folder DIR] [--smoke]
"""

import tempfile
import warnings
from collections.abc import Callable
from copy import copy
from functools import partial
from pathlib import Path

import torch
from torch import nn

from benchmarks import record
from benchmarks.scoring import CASES, Ways, end_to_end, in_turns, make_dump, make_run
from catalog.arithmetic import one_blas_thread
from catalog.sources.source import open_source
from pipeline.model import TwoStageModel
from pipeline.networks import open_network
from pipeline.run_folder import RunFolder
from stage1_cnn.device import inference_compute, one_thread, threads_restored
from stage1_cnn.onnx import FromPixels, by_onnxruntime
from stage1_cnn.predict import Predictor
from stage1_cnn.runtimes import BATCH, ExportedPredictor, candidates, features_of_parts
from stage1_cnn.transforms import Normaliser

BATCHES = (16, 64)
AT_ONCE = (4, 16, 32)
"""Images that a runtime other than PyTorch computes at once, of a batch of 64; beside its own."""
IMAGES = 128
"""That a bare network sees in a round, in batches of either size."""
PRODUCTS = {"resnet50": 100, "mobilenet_v2": 1500, "shufflenet_v2_x0_5": 60}
"""That are scored end to end."""
Features = Callable[[torch.Tensor], object]
"""uint8 [B, 3, H, W] in channels_last -> features [B, D]."""


def main() -> None:
    """Prints the rates of each network in each precision."""
    parser = record.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep the networks here, or use those there")
    options = parser.parse_args()
    backbones = ["shufflenet_v2_x0_5"] if options.smoke else ["resnet50", "mobilenet_v2"]
    figures = {}
    with tempfile.TemporaryDirectory() as name, threads_restored(), one_blas_thread():
        one_thread()
        for backbone in backbones:
            for precision in ("fp32", "bf16"):
                folder = (options.folder or Path(name)) / f"{backbone}-{precision}"
                run = make_run(folder, backbone, *CASES[backbone][:2], precision)
                print(f"{backbone}, {precision}:", flush=True)
                rates = in_turns(ways(run, backbone, precision), options.rounds)
                medians = {way: record.over_rounds(values) for way, values in rates.items()}
                figures[f"{backbone} {precision}"] = medians
    record.save(options.json, figures, rounds=options.rounds)


def ways(run: RunFolder, backbone: str, precision: str) -> Ways:
    """Each way to compute, warm."""
    found: Ways = {}
    size, side, _ = CASES[backbone]
    for name, features in bare(run, precision).items():
        for batch in BATCHES[-1:] if " at once" in name else BATCHES:
            pixels = torch.randint(256, (batch, 3, size, size), dtype=torch.uint8)
            batches = [pixels.contiguous(memory_format=torch.channels_last)] * (IMAGES // batch)
            forward(features, batches[:2])
            found[f"{name}, {batch}"] = IMAGES, partial(forward, features, batches)
    folder = run.folder.parent
    dump = make_dump(folder / "dump.bson", PRODUCTS[backbone], side)
    images = int(open_source([dump], folder / "index").n_images.sum())
    for title, runtime in {"end to end by PyTorch": "torch", "end to end": "auto"}.items():
        model = TwoStageModel.open(run, "cpu", precision, runtime)
        found[title] = images, partial(end_to_end, model, folder)
    return found


def forward(features: Features, batches: list[torch.Tensor]) -> None:
    """One batch after the other."""
    for batch in batches:
        features(batch)


def bare(run: RunFolder, precision: str) -> dict[str, Features]:
    """The network alone, by each runtime that is installed."""
    networks: dict[str, Features] = {}
    names = candidates(inference_compute("cpu", precision))
    for name in names:
        predictor = open_network(run.checkpoint, device="cpu", precision=precision, runtime=name)
        networks[name] = predictor.features
        if isinstance(predictor, ExportedPredictor):
            networks |= {f"{name} {n} at once": at_once(predictor, n) for n in AT_ONCE}
        if name == "torch":
            networks["traced"] = traced(predictor)
    if "onnx" in names:
        networks["outside"] = normalised_outside(open_network(run.checkpoint, device="cpu"))
    return networks


def at_once(predictor: ExportedPredictor, size: int) -> Features:
    """The same, computing so many images at once."""
    other = copy(predictor)
    other.at_once = size
    return other.features


def traced(predictor: Predictor) -> Features:
    """PyTorch's network as a frozen graph."""
    transform, compute = predictor.transform, predictor.compute
    pixels = torch.zeros((2, transform.height, transform.width, 3), dtype=torch.uint8)
    casts = torch.autocast("cpu", torch.bfloat16, compute.precision == "bf16", cache_enabled=False)
    with torch.inference_mode(), casts, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch would rather compile
        graph = torch.jit.trace(FromPixels(predictor).eval(), pixels, check_trace=False)
        graph = torch.jit.freeze(graph)

    def features(pixels: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return graph(pixels.permute(0, 2, 3, 1)).half()

    return features


class Backbone(nn.Module):
    """Normalised photos float32 [B, H, W, 3] -> features float32 [B, D]."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.backbone = predictor.network.backbone

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """As the class says."""
        return self.backbone(pixels.permute(0, 3, 1, 2))


def normalised_outside(predictor: Predictor) -> Features:
    """ONNX Runtime, given photos as PyTorch normalises them."""
    transform = predictor.transform
    example = (torch.zeros((2, transform.height, transform.width, 3)),)
    program = torch.onnx.export(
        Backbone(predictor).eval(),
        example,
        dynamo=True,
        verbose=False,
        input_names=["pixels"],
        output_names=["features"],
        dynamic_shapes={"pixels": {0: torch.export.Dim("images")}},
    )
    assert program is not None  # it is only without dynamo
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        program.save(path, external_data=False)
        run = by_onnxruntime(path.read_bytes())
    normalise = Normaliser(transform, torch.device("cpu"))
    return lambda pixels: features_of_parts(
        run, normalise(pixels).permute(0, 2, 3, 1).numpy(), BATCH
    )


if __name__ == "__main__":
    main()
