import json

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from catalog.errors import ConfigError
from stage1_cnn.config import Augment, Stage1Config
from stage1_cnn.transforms import EvalTransform, Normaliser, TrainTransform, uniforms

EVAL = EvalTransform.from_config(Stage1Config(image_size=(20, 16)))
IDS = np.array([1 << 40, 3, 17], dtype=np.int64)


def photos(*shapes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]


def chw(photo: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(photo)).permute(2, 0, 1)


def test_round_trip_through_json() -> None:
    assert EvalTransform.from_json(json.loads(json.dumps(EVAL.to_json()))) == EVAL


def test_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="centre-crop"):
        EvalTransform.from_json({**EVAL.to_json(), "kind": "centre-crop"})


def test_equals_torchvision_one_by_one() -> None:
    images = photos((30, 40), (9, 9), (30, 40), (20, 16), (64, 8))
    pixels = EVAL(images)
    assert pixels.shape == (5, 3, 20, 16)
    assert pixels.dtype == torch.uint8
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    for row, image in zip(pixels, images, strict=True):
        assert torch.equal(row, F.resize(chw(image), [20, 16], antialias=True))
    assert torch.equal(pixels[3], chw(images[3])), "the right size already: untouched"


def test_no_images_is_an_empty_batch() -> None:
    assert EVAL([]).shape == (0, 3, 20, 16)


def test_draws_depend_on_seed_epoch_and_image_alone() -> None:
    images = photos((30, 40), (30, 40), (25, 25))

    def transform(seed: int, epoch: int) -> TrainTransform:
        return TrainTransform(EVAL, Augment(), seed, epoch)

    together = transform(1, 1)(images, IDS)
    reverse = transform(1, 1)(images[::-1], IDS[::-1]).flip(0)
    assert torch.equal(together, reverse)
    assert torch.equal(together[1:2], transform(1, 1)(images[1:2], IDS[1:2]))
    assert not torch.equal(together, transform(1, 2)(images, IDS))
    assert not torch.equal(together, transform(2, 1)(images, IDS))


def test_everything_off_is_the_evaluation_transform() -> None:
    images = photos((30, 40), (9, 9), (20, 16))
    off = TrainTransform(EVAL, Augment(flip=False, crop=1, stretch=1, colour=0), 0, 1)
    assert torch.equal(off(images, IDS), EVAL(images))
    assert off.colours(IDS) is None


def test_half_are_mirrored() -> None:
    image, n = photos((20, 16))[0], 400
    pixels = TrainTransform(EVAL, Augment(crop=1, stretch=1), 0, 1)([image] * n, np.arange(n))
    mirrored = (pixels == chw(image[:, ::-1])).flatten(1).all(1)
    upright = (pixels == chw(image)).flatten(1).all(1)
    assert (mirrored ^ upright).all()
    assert 150 < mirrored.sum() < 250


def test_crops_keep_their_share_and_stay_inside() -> None:
    ramp = np.arange(100 * 100, dtype=np.int64).reshape(100, 100, 1).repeat(3, 2)
    transform = TrainTransform(EVAL, Augment(crop=0.5, stretch=1.5), 0, 1)
    corners = set()
    for draw in uniforms(0, 1, np.arange(500), 5, stream=0):
        crop = transform._crop(ramp, draw)
        assert 0.45 <= crop.size / ramp.size <= 1
        assert 1 / 1.55 < crop.shape[0] / crop.shape[1] < 1.55
        corners.add(crop.min())
    assert len(corners) > 200


def test_uniforms_are_uniform_and_independent() -> None:
    draws = uniforms(3, 1, np.arange(20_000), 4, stream=0)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert np.abs(np.histogram(draws, 10, (0, 1))[0] / draws.size - 0.1).max() < 0.005
    others = [draws, uniforms(3, 2, np.arange(20_000), 4, stream=0), uniforms(3, 1, np.arange(20_000), 4, stream=1)]
    correlation = np.corrcoef(np.concatenate(others, axis=1).T) - np.eye(12)
    assert np.abs(correlation).max() < 0.03


def test_normaliser_equals_torchvision() -> None:
    pixels = EVAL(photos((30, 40), (9, 9)))
    values = Normaliser(EVAL, torch.device("cpu"))(pixels)
    assert values.is_contiguous(memory_format=torch.channels_last)
    expected = F.normalize(pixels.float() / 255, list(EVAL.mean), list(EVAL.std))
    torch.testing.assert_close(values, expected, atol=1e-5, rtol=1e-5)


def test_colours_equal_torchvision() -> None:
    pixels = EVAL(photos((30, 40))) // 2 + 50
    plain = EvalTransform(20, 16, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    values = Normaliser(plain, torch.device("cpu"))(pixels, torch.tensor([[1.1, 0.8, 1.3]]))
    expected = F.adjust_brightness(pixels.float() / 255, 1.1)
    expected = F.adjust_saturation(F.adjust_contrast(expected, 0.8), 1.3)
    torch.testing.assert_close(values, expected, atol=2e-3, rtol=0)  # torchvision's gray has rounder coefficients
