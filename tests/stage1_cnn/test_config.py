import pytest
from pydantic import ValidationError

from stage1_cnn.config import Stage1Config


def test_defaults_are_the_published_recipe() -> None:
    config = Stage1Config()
    assert (config.backbone, config.head_epochs, config.epochs, config.size) == (
        "resnet50",
        12,
        8,
        (224, 224),
    )


def test_height_and_width() -> None:
    assert Stage1Config(image_size=[80, 60]).size == (80, 60)


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": 0},
        {"lr": -1},
        {"batch_size": 0},
        {"label_smoothing": 1},
        {"optimizer": "lion"},
        {"image_size": 0},
        {"precision": "int8"},
        {"learning_rate": 1e-3},
        {"workers": -1},
        {"augment": {"crop": 0}},
        {"augment": {"flips": True}},
        {"epochs": 0, "weights": "none"},
        {"epochs": 0, "head_epochs": 0},
        {"ema_decay": 1},
        {"trainable_blocks": -1},
        {"trainable_blocks": "some"},
        {"layer_decay": 0},
        {"accumulate": 0},
        {"patience": 0},
        {"sampling": "balanced", "logit_adjustment": 1},
        {"compile": "graph"},
        {"augment": {"erase": 2}},
        {"width": 0},
        {"schedule": "step"},
        {"clip_norm": 0},
        {"compile": "graphs", "accumulate": 2},
    ],
)
def test_impossible_values_and_unknown_keys_are_errors(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        Stage1Config(**wrong)


def test_only_what_shapes_the_result_is_part_of_it() -> None:
    base = Stage1Config().shaping()
    place = {
        "workers": 3,
        "device": "cpu",
        "cache_gb": 0,
        "save_minutes": 1,
        "compile": "plain",
        "deterministic": True,
        "keep_epochs": True,
    }
    assert Stage1Config(**place).shaping() == base
    assert Stage1Config(seed=1).shaping() != base
    assert Stage1Config(augment={"flip": False}).shaping() != base


def test_later_keys_are_recorded_only_where_they_say_something_new() -> None:
    """So that what was trained before they came is current."""
    base = Stage1Config().shaping()
    assert base.keys() == {
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
        "augment",
        "precision",
        "seed",
    }
    assert base["augment"].keys() == {"flip", "crop", "stretch", "colour"}
    assert Stage1Config(ema_decay=0.99).shaping() == base | {"ema_decay": 0.99}
    changed = Stage1Config(augment={"mixup": 0.2, "crop": 0.5}).shaping()
    assert changed == base | {"augment": base["augment"] | {"mixup": 0.2, "crop": 0.5}}


def test_size_while_fine_tuning() -> None:
    assert Stage1Config(image_size=96).fit_size == (96, 96)
    assert Stage1Config(image_size=96, train_size=[64, 48]).fit_size == (64, 48)
