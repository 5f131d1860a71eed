import pytest
from pydantic import ValidationError

from stage1_cnn.config import Stage1Config


def test_defaults_are_the_published_recipe() -> None:
    config = Stage1Config()
    assert (config.backbone, config.head_epochs, config.epochs, config.size) == ("resnet50", 12, 8, (224, 224))


def test_height_and_width() -> None:
    assert Stage1Config(image_size=[80, 60]).size == (80, 60)


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": 0}, {"lr": -1}, {"batch_size": 0}, {"label_smoothing": 1}, {"optimizer": "lion"}, {"image_size": 0},
        {"precision": "int8"}, {"learning_rate": 1e-3}, {"workers": -1}, {"augment": {"crop": 0}},
        {"augment": {"flips": True}}, {"epochs": 0, "weights": "none"}, {"epochs": 0, "head_epochs": 0},
    ],
)  # fmt: skip
def test_impossible_values_and_unknown_keys_are_errors(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        Stage1Config(**wrong)


def test_only_what_shapes_the_result_is_part_of_it() -> None:
    base = Stage1Config().shaping()
    assert Stage1Config(workers=3, device="cpu", cache_gb=0, save_minutes=1).shaping() == base
    assert Stage1Config(seed=1).shaping() != base
    assert Stage1Config(augment={"flip": False}).shaping() != base
