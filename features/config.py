"""How features are extracted."""

from typing import Literal

from pydantic import PositiveInt

from catalog.config import Section


class FeaturesConfig(Section):
    """Section `features`: how networks compute when they answer; section `stage1` says how they are
    trained."""

    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    """Precision of the networks in features.h5, `score`, `predict` and `compare`. `auto` is fp32 on
    a processor, so that every machine and runtime gives the same answers; on a GPU bf16, or fp16 if
    it has no bf16. `int8` quantises the network (extra `export`, on a processor) and is refused if
    stage 1 loses more than .3 points of val_b. Look-ups are always fp32."""
    runtime: Literal["auto", "torch", "onnx", "openvino"] = "auto"
    """What computes the networks: PyTorch, ONNX Runtime (fp32 and int8; extra `export`) or OpenVINO
    (extra `openvino`). `auto` measures, once for each network, which is the fastest on this
    processor, and keeps it in runtime.json; on a GPU it is PyTorch."""
    batch_size: PositiveInt = 128
    """Images per batch."""
