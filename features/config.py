"""How features are extracted."""

from typing import Literal

from pydantic import PositiveInt

from catalog.config import Section


class FeaturesConfig(Section):
    """Section `features`: how the networks compute what answers; how they are trained is section
    `stage1`'s."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the networks' arithmetic in all that answers: features.h5, `score`, `predict`, `compare`.
    `auto` is fp32 on a processor, so that every machine and runtime answers alike; on a GPU bf16,
    or fp16 where it has none. Look-ups are always fp32."""
    batch_size: PositiveInt = 128
    """Images through the network at once."""
