"""Section `stage1`: the network, its two training phases, and how images reach it."""

from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from catalog.config import Section

_PLACE = {
    "device",
    "workers",
    "save_minutes",
    "keep_epochs",
    "cache_gb",
    "compile",
    "deterministic",
}
_FIRST = {
    "backbone",
    "weights",
    "image_size",
    "normalisation",
    "head_epochs",
    "head_lr",
    "epochs",
    "lr",
    "optimizer",
    "weight_decay",
    "label_smoothing",
    "warmup",
    "batch_size",
    "clip_norm",
    "batch_norm",
    "precision",
    "seed",
}
_FIRST_AUGMENT = {"flip", "crop", "stretch", "colour"}


class Augment(Section):
    """Random changes of training photos while fine-tuning; the head phase has none."""

    flip: bool = True
    """Mirror half of the photos."""
    crop: float = Field(default=0.6, gt=0, le=1)
    """Smallest share of the photo's area that a random crop keeps; 1 never crops."""
    stretch: float = Field(default=1.2, ge=1)
    """Largest change of the photo's aspect ratio by a crop."""
    colour: float = Field(default=0.2, ge=0, lt=1)
    """Brightness, contrast and saturation are each multiplied by 1 - colour to 1 + colour."""
    rotate: float = Field(default=0, ge=0, le=180)
    """Largest rotation of a photo, degrees, either way. Uncovered areas repeat edge pixels (border
    padding)."""
    shift: float = Field(default=0, ge=0, lt=1)
    """Largest shift of a photo, as a share of its width and of its height."""
    shear: float = Field(default=0, ge=0, lt=90)
    """Largest shear of a photo's upright sides, degrees, either way."""
    zoom: float = Field(default=0, ge=0, lt=1)
    """A photo is magnified by 1 - zoom to 1 + zoom."""
    policy: Literal["none", "randaugment", "trivialaugment"] = "none"
    """Operations drawn at random from a fixed list: RandAugment (Cubuk et al. 2019), TrivialAugment
    (Müller, Hutter 2021)."""
    operations: PositiveInt = 2
    """RandAugment: operations on each photo."""
    magnitude: int = Field(default=9, ge=0, le=30)
    """RandAugment: how strong each is, 0 to 30."""
    erase: float = Field(default=0, ge=0, le=1)
    """Share of the photos in which a random rectangle is erased (random erasing, Zhong et al.
    2017)."""
    mixup: NonNegativeFloat = 0
    """Photos of a batch are blended in pairs, the share drawn from Beta(mixup, mixup); 0 is off,
    0.2 usual."""
    cutmix: NonNegativeFloat = 0
    """A rectangle of one photo is put into another, its share drawn from Beta(cutmix, cutmix); 0 is
    off, 1 usual. With mixup too, each batch gets one of them."""


class Stage1Config(Section):
    """Section `stage1`. The defaults are the published recipe: the head, then the whole network."""

    backbone: str = "resnet50"
    """A network by its name in torchvision; `efficientnet_lite0`, `1`, `2`; `vanilla`; or
    `timm:NAME` (docs/networks.md)."""
    width: PositiveFloat = 1
    """Factor of the numbers of filters, for `vanilla`, `vgg16`, `vgg16_landmarks` and
    `mobilenet_v2`."""
    landmarks: Path | None = None
    """CSV of landmarks (docs/formats.md) that `vgg16_landmarks` learns to find while fine-tuning;
    null: attention alone."""
    landmark_weight: PositiveFloat = 0.5
    """Weight of the landmarks' loss, relative to that of the categories."""
    weights: str = "imagenet"
    """`imagenet` (what is on this machine, else downloaded; `shelfsort doctor` lists the former),
    `none` (random, no head phase), or a file: a state_dict of the same network (also as
    .safetensors), or a checkpoint of stage 1."""
    image_size: PositiveInt | tuple[PositiveInt, PositiveInt] | Literal["auto"] = 224
    """Pixels: a side, or height and width; `auto` is what the pretrained weights were trained on.
    Photos are resized to exactly this, so that the whole product is seen."""
    train_size: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    """Pixels while fine-tuning, if fewer than in evaluation (Touvron et al.
    2019); null is image_size."""
    decode: Literal["full", "scaled"] = "full"
    """`scaled` decodes JPEGs of at least twice `image_size` to a half, a quarter or an eighth of
    their sides (scaled DCT), in training and in answers alike; faster, slightly blurrier. The rest
    of the way is resized as ever."""
    normalisation: Literal["auto", "imagenet", "unit", "train_mean", "mean_image"] = "auto"
    """`auto` is what the pretrained weights were trained with; `imagenet` is that of torchvision's,
    `unit` gives [-1, 1]; `train_mean` is mean and deviation of each channel over the training
    photos, `mean_image` the mean of each pixel."""
    head_epochs: NonNegativeInt = 12
    """Epochs of the new head over the frozen backbone."""
    head_lr: PositiveFloat = 1e-3
    """Highest learning rate of the head phase."""
    epochs: NonNegativeInt = 8
    """Epochs of fine-tuning."""
    lr: PositiveFloat = 1e-4
    """Highest learning rate of fine-tuning."""
    trainable_blocks: NonNegativeInt | Literal["all"] = "all"
    """Blocks of the backbone, counted from the head, that fine-tuning changes; 0 trains the head
    alone, on augmented photos."""
    layer_decay: float = Field(default=1, gt=0, le=1)
    """The learning rate of each block is that of the next one, nearer to the head, times this."""
    drop_path: float | None = Field(default=None, ge=0, lt=1)
    """Highest rate at which residual branches are skipped (Huang et al. 2016); null leaves the
    backbone's own."""
    ema_decay: float = Field(default=0, ge=0, lt=1)
    """Fine-tuning keeps a moving average of the weights, which is validated and kept as the best; 0
    is off, 0.999 usual."""
    patience: PositiveInt | None = None
    """A phase ends early when val_a has not improved for so many epochs; null never does."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """SGD has Nesterov momentum 0.9 and needs a learning rate ten to a hundred times as high."""
    weight_decay: NonNegativeFloat = 0.01
    """Weight decay of matrices and filters; biases and normalisation layers have none. AdamW
    without it is Adam.
    """
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Share of each target spread over all categories."""
    warmup: NonNegativeFloat = 0.5
    """Epochs over which a phase's learning rate rises."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """After the warm-up: a cosine to 0, or the highest rate to the end."""
    logit_adjustment: NonNegativeFloat = 0
    """Weight of log(category's share of the training photos), added to the logits in the loss
    (Menon et al. 2021); 1 usual."""
    sampling: Literal["natural", "balanced", "levelled"] = "natural"
    """`natural` shows each photo once an epoch; `balanced` as many, each category as often;
    `levelled` brings smaller categories up to the 98th percentile of their sizes by repeats that
    are mirrored, turned either way, or grained, as published."""
    shuffle_block: NonNegativeInt = 0
    """0 shuffles all photos; else blocks of so many neighbours by id, 64 blocks at a time: for
    stores larger than memory, of a dump whose ids ascend."""
    batch_size: PositiveInt = 64
    """Images a step, over all processes."""
    accumulate: PositiveInt = 1
    """Parts in which a step's images go through the network, to save memory."""
    clip_norm: PositiveFloat | None = 1.0
    """Longest gradient; null shortens none."""
    batch_norm: Literal["auto", "train", "frozen"] = "auto"
    """While fine-tuning, `train` learns its statistics again and `frozen` keeps them; `auto` keeps
    those of pretrained weights that have them folded into their filters, as quantised releases
    do."""
    augment: Augment = Augment()
    """Random changes of training photos while fine-tuning."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the arithmetic in training; `auto` is bf16 if the processor has it, else fp16 on
    a GPU and fp32 on a CPU. Answers have a precision of their own, `features.precision`."""
    device: str = "auto"
    """`auto` is the GPU if there is one; else `cpu`, `cuda`, `cuda:1`."""
    workers: NonNegativeInt | Literal["auto"] = "auto"
    """Threads that decode; 0 decodes between the steps. `auto` uses the cores that the arithmetic
    leaves."""
    save_minutes: NonNegativeFloat = 10
    """last.pt is also saved within an epoch, this often; 0 saves after every step."""
    keep_epochs: bool = False
    """Keep the network of every epoch too, as PHASE-EPOCH.pt."""
    cache_gb: NonNegativeFloat = 2
    """Memory for the head phase's features; more than this goes to a temporary file in the run."""
    compile: Literal["none", "plain", "graphs"] = "none"
    """`plain` fine-tunes through torch.compile; `graphs` with CUDA graphs too, on a GPU."""
    deterministic: bool = False
    """Only algorithms that give the same bits each time: slower on a GPU, no difference on a CPU.
    """
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the new head, the order of the images, augmentation and dropout."""

    @model_validator(mode="after")
    def _some_epochs(self) -> "Stage1Config":
        if not self.epochs and not (self.head_epochs and self.weights != "none"):
            raise ValueError(
                "epochs is 0, and head_epochs is 0 or skipped as weights is none: nothing to train"
            )
        return self

    @model_validator(mode="after")
    def _one_remedy(self) -> "Stage1Config":
        if self.logit_adjustment and self.sampling != "natural":
            raise ValueError(
                f"logit_adjustment and sampling={self.sampling} both make up for small categories: "
                "choose one"
            )
        return self

    @model_validator(mode="after")
    def _landmarks_seen(self) -> "Stage1Config":
        if self.landmarks and self.backbone != "vgg16_landmarks":
            raise ValueError(
                f"{self.backbone} does not use landmarks; "
                "expected backbone vgg16_landmarks, or landmarks null"
            )
        if self.landmarks and (
            self.augment.mixup or self.augment.cutmix or self.sampling == "levelled"
        ):
            raise ValueError(
                "landmarks can't follow photos that are blended or levelled: "
                "turn mixup, cutmix and levelled off"
            )
        return self

    @model_validator(mode="after")
    def _graphs_run_once_a_step(self) -> "Stage1Config":
        if self.compile == "graphs" and self.accumulate > 1:
            raise ValueError(
                f"accumulate={self.accumulate} adds up the gradients of parts, which the next "
                "part's CUDA graph overwrites: set accumulate=1, or compile=plain"
            )
        return self

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network's input, pixels."""
        if self.image_size != "auto":
            return _pair(self.image_size)
        from stage1_cnn.networks.architectures import pretraining  # torch takes seconds to load

        return pretraining(self.backbone).size

    @property
    def decoded(self) -> tuple[int, int] | None:
        """Height and width that photos keep when they are decoded smaller; None: they are not."""
        return self.size if self.decode == "scaled" else None

    @property
    def fit_size(self) -> tuple[int, int]:
        """Height and width while fine-tuning."""
        return _pair(self.train_size) if self.train_size else self.size

    def shaping(self) -> dict[str, Any]:
        """The settings that shape the result, for `made_from`: all but where and how fast it runs.
        Keys that were added later are included only if they differ from their default, which is the
        behaviour before they existed, so that earlier checkpoints stay current.
        """
        first = self.model_dump(mode="json", include=_FIRST)
        augment = self.augment.model_dump(mode="json", include=_FIRST_AUGMENT)
        later = self.model_dump(mode="json", exclude=_PLACE, exclude_defaults=True)
        return later | first | {"augment": later.get("augment", {}) | augment}


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)
