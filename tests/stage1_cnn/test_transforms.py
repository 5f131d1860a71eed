import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from catalog.errors import ConfigError
from stage1_cnn.config import Augment, Stage1Config
from stage1_cnn.transforms import Changes, EvalTransform, Normaliser, TrainTransform, uniforms

EVAL = EvalTransform.from_config(Stage1Config(image_size=(20, 16)))
IDS = np.array([1 << 40, 3, 17], dtype=np.int64)


def photos(*shapes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]


def chw(photo: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(photo)).permute(2, 0, 1)


def test_round_trip_through_json() -> None:
    assert EvalTransform.from_json(json.loads(json.dumps(EVAL.to_json()))) == EVAL


def test_the_least_decoded_size_is_saved_only_if_there_is_one() -> None:
    """So that earlier checkpoints and features stay current."""
    scaled = EvalTransform.from_config(Stage1Config(image_size=(20, 16), decode="scaled"))
    assert scaled == replace(EVAL, least=(20, 16))
    assert scaled.to_json() == EVAL.to_json() | {"least": [20, 16]}
    assert EvalTransform.from_json(json.loads(json.dumps(scaled.to_json()))) == scaled
    train = TrainTransform(replace(scaled, height=8, width=8), Augment(), seed=0, epoch=0)
    assert train.least == (20, 16)  # smaller photos in fine-tuning are decoded as in evaluation


def test_the_mean_image_travels_in_the_state_and_stands_as_its_checksum_in_fingerprints() -> None:
    assert EVAL.state() == EVAL.to_json()
    image = torch.arange(3 * 20 * 16, dtype=torch.float32).view(3, 20, 16) / 1000
    found = replace(EVAL, mean_image=image)
    again = EvalTransform.from_json(found.state())
    assert torch.equal(again.mean_image, image)
    assert json.loads(json.dumps(again.to_json())) == found.to_json() != EVAL.to_json()
    assert replace(EVAL, mean_image=image + 1).to_json() != found.to_json()


def test_the_mean_image_is_subtracted_also_at_another_size() -> None:
    image = torch.zeros(3, 20, 16)
    image[:, :10] = 0.25
    transform = replace(EVAL, mean=(0.5,) * 3, std=(0.5,) * 3, mean_image=image)
    normaliser = Normaliser(transform, torch.device("cpu"))
    for height, width in ((20, 16), (10, 8), (20, 16)):
        values = normaliser(torch.full((2, 3, height, width), 255, dtype=torch.uint8))
        assert values.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(
            values[:, :, : height // 4], torch.full((2, 3, height // 4, width), 0.5)
        )
        torch.testing.assert_close(
            values[:, :, -(height // 4) :], torch.ones(2, 3, height // 4, width)
        )


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


def test_the_batch_lies_in_the_room_given_where_its_photos_may_lie_already() -> None:
    images, out = photos((30, 40), (20, 16), (20, 16), (9, 9)), EVAL.empty_batch(6)
    expected = EVAL(images)
    out[1], images[1] = images[1], out[1]
    pixels = EVAL(images, out=out)
    assert torch.equal(pixels, expected)
    assert np.shares_memory(pixels.numpy(), out)


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
    assert off.changes(IDS, np.zeros(3, dtype=np.int64)) == (None, None, None)


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
    others = [
        draws,
        uniforms(3, 2, np.arange(20_000), 4, stream=0),
        uniforms(3, 1, np.arange(20_000), 4, stream=1),
    ]
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
    values = Normaliser(plain, torch.device("cpu"))(
        pixels, Changes(colours=torch.tensor([[1.1, 0.8, 1.3]]))
    )
    expected = F.adjust_brightness(pixels.float() / 255, 1.1)
    expected = F.adjust_saturation(F.adjust_contrast(expected, 0.8), 1.3)
    torch.testing.assert_close(
        values, expected, atol=2e-3, rtol=0
    )  # torchvision's gray has rounder coefficients


NONE = np.zeros(3, dtype=np.int64)
STILL = {"flip": False, "crop": 1, "stretch": 1, "colour": 0}


def train(
    seed: int = 0, epoch: int = 1, levelled: bool = False, **options: object
) -> TrainTransform:
    return TrainTransform(EVAL, Augment(**STILL, **options), seed, epoch, levelled)


def changed(
    transform: TrainTransform,
    pixels: torch.Tensor,
    repeats: np.ndarray = NONE,
    ids: np.ndarray = IDS,
) -> torch.Tensor:
    plain = EvalTransform(20, 16, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return Normaliser(plain, torch.device("cpu"))(pixels, transform.changes(ids, repeats))


def test_turns_are_those_of_torchvision() -> None:
    pixels = EVAL([np.full((20, 16, 3), 7, np.uint8)] * 3)
    pixels[:, :, 6:14, 5:11] = 200
    transform = train(rotate=30)
    affine = transform.changes(IDS, NONE).affine
    for found, row, theta in zip(changed(transform, pixels), pixels, affine, strict=True):
        degrees = float(torch.atan2(theta[1, 0] * 20 / 16, theta[0, 0]).rad2deg())
        assert 0 < abs(degrees) <= 30
        expected = F.rotate(
            row.float() / 255, degrees, F.InterpolationMode.BILINEAR, fill=[7 / 255] * 3
        )
        torch.testing.assert_close(found, expected, atol=0.01, rtol=0)


def test_shift_and_zoom_stay_within_their_limits() -> None:
    ids = np.arange(500)
    affine = train(shift=0.1, zoom=0.2).changes(ids, np.zeros(500, dtype=np.int64)).affine
    assert 0.15 < affine[:, :, 2].abs().max() <= 0.2, "places run from -1 to 1"
    assert 1 / 1.2 <= affine[:, 0, 0].min() < 0.86
    assert 1.2 < affine[:, 0, 0].max() <= 1 / 0.8
    assert torch.equal(affine[:, 0, 0], affine[:, 1, 1])
    lean = train(shear=20).changes(ids, np.zeros(500, dtype=np.int64)).affine
    assert (
        np.tan(np.deg2rad(18))
        < lean[:, 0, 1].abs().max() * 16 / 20
        <= np.tan(np.deg2rad(20)) + 1e-6
    )
    assert torch.equal(lean[:, 0, 0], torch.ones(500))


def test_erased_boxes_are_blank_and_as_frequent_as_asked() -> None:
    ids = np.arange(400)
    transform, pixels = train(erase=0.25), torch.full((400, 3, 20, 16), 255, dtype=torch.uint8)
    blank = (changed(transform, pixels, np.zeros(400, dtype=np.int64), ids) == 0).all(1)
    assert 70 < blank.flatten(1).any(1).sum() < 130
    area = blank.flatten(1).double().mean(1)
    assert area.max() < 0.4
    for mask in blank[area > 0][:20]:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns[None, :]), "a rectangle"


def test_repeats_of_a_photo_differ_from_each_other() -> None:
    image, ids = photos((30, 40))[0], np.array([5, 5, 5])
    pixels = TrainTransform(EVAL, Augment(), 0, 1)([image] * 3, ids, np.array([0, 1, 2]))
    assert len({tuple(row.flatten().tolist()) for row in pixels}) == 3
    assert torch.equal(pixels[:1], TrainTransform(EVAL, Augment(), 0, 1)([image], ids[:1]))


def test_levelled_repeats_are_mirrored_turned_both_ways_and_grained() -> None:
    image, ids, repeats = photos((20, 16))[0], np.full(5, 9), np.arange(5)
    transform = train(levelled=True)
    plain, mirrored, left, right, grained = transform([image] * 5, ids, repeats)
    assert torch.equal(plain, chw(image))
    assert torch.equal(mirrored, chw(image[:, ::-1]))
    assert torch.equal(left, plain)
    assert torch.equal(right, plain)
    assert 5 < (grained.float() - plain.float()).std() < 15
    turn = transform.changes(ids, repeats).affine[:, 1, 0]
    assert turn[2] > 0 > turn[3]
    assert not turn[[0, 1, 4]].any()


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
def test_policies_depend_on_the_image_alone(policy: str) -> None:
    images, transform = photos((30, 40), (30, 40), (25, 25)), train(policy=policy)
    together = transform(images, IDS)
    assert together.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(together[1:2], transform(images[1:2], IDS[1:2]))
    assert not torch.equal(together, EVAL(images))
