"""Section `stage1`: the network, its two training phases, and how images reach it."""

from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from catalog.config import Section

NORMALISATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "unit": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Mean and standard deviation of each channel, on the scale where a pixel is 0 to 1; `unit` gives [-1, 1]."""

_PLACE = {"device", "workers", "save_minutes", "cache_gb"}


class Augment(Section):
    """Random changes of training photos while fine-tuning; the head phase sees none."""

    flip: bool = True
    """Mirror half of the photos."""
    crop: float = Field(default=0.6, gt=0, le=1)
    """Smallest share of the photo's area that a random crop keeps; 1 never crops."""
    stretch: float = Field(default=1.2, ge=1)
    """Most by which a crop changes the ratio of the photo's sides."""
    colour: float = Field(default=0.2, ge=0, lt=1)
    """Brightness, contrast and saturation are each multiplied by 1 - colour to 1 + colour."""


class Stage1Config(Section):
    """Section `stage1`: the defaults are the published recipe, head first, then the whole network."""

    backbone: str = "resnet50"
    """A classification network of torchvision, by its name there."""
    weights: str = "imagenet"
    """`imagenet` (torchvision's, downloaded and checked), `none` (random, no head phase), or a file: a state_dict of
    the same torchvision network, or a checkpoint of stage 1."""
    image_size: PositiveInt | tuple[PositiveInt, PositiveInt] = 224
    """Pixels: a side, or height and width. Photos are resized to exactly this, so that the whole product is seen."""
    normalisation: Literal["imagenet", "unit"] = "imagenet"
    """`imagenet` for torchvision's weights, `unit` for [-1, 1]."""
    head_epochs: NonNegativeInt = 12
    """Epochs of the new head over the frozen backbone."""
    head_lr: PositiveFloat = 1e-3
    """Highest learning rate of the head phase."""
    epochs: NonNegativeInt = 8
    """Epochs of fine-tuning with everything trainable."""
    lr: PositiveFloat = 1e-4
    """Highest learning rate of fine-tuning."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """SGD has Nesterov momentum 0.9 and wants a learning rate ten to a hundred times as high."""
    weight_decay: NonNegativeFloat = 0.01
    """Of matrices and filters; biases and normalisation layers have none."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Share of each target spread over all categories."""
    warmup: NonNegativeFloat = 0.5
    """Epochs over which a phase's learning rate rises; a cosine to 0 follows."""
    batch_size: PositiveInt = 64
    """Images a step."""
    clip_norm: PositiveFloat = 1.0
    """Longest gradient."""
    batch_norm: Literal["auto", "train", "frozen"] = "auto"
    """While fine-tuning, `train` learns its statistics anew and `frozen` keeps them; `auto` keeps those of pretrained weights
    that have them folded into their filters, as quantised releases do."""
    augment: Augment = Augment()
    """Random changes of training photos while fine-tuning."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the network's arithmetic; `auto` is bf16 where the processor has it, else fp16 on a GPU and fp32 on a CPU."""
    device: str = "auto"
    """`auto` is the GPU where there is one; else `cpu`, `cuda`, `cuda:1`."""
    workers: NonNegativeInt | Literal["auto"] = "auto"
    """Threads that decode; 0 decodes between the steps. `auto` uses the cores that the arithmetic leaves."""
    save_minutes: NonNegativeFloat = 10
    """last.pt is also saved within an epoch, this often; 0 saves after every step."""
    cache_gb: NonNegativeFloat = 2
    """Memory for the head phase's features; more than this goes to a temporary file in the run."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of the new head, the order of the images, augmentation and dropout."""

    @model_validator(mode="after")
    def _some_epochs(self) -> "Stage1Config":
        if not self.epochs and not (self.head_epochs and self.weights != "none"):
            raise ValueError("epochs is 0, and head_epochs is 0 or skipped as weights is none: nothing to train")
        return self

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network's input, pixels."""
        return self.image_size if isinstance(self.image_size, tuple) else (self.image_size, self.image_size)

    def shaping(self) -> dict[str, Any]:
        """What shapes the result, for `made_from`: all but where and how fast it runs."""
        return self.model_dump(mode="json", exclude=_PLACE)
