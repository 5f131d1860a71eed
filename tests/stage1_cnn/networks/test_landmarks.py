"""The landmark network: shapes, gradients, where landmarks go when a photo is changed, and that the
loss finds them."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from catalog.config import CatalogConfig
from catalog.errors import ConfigError
from catalog.landmarks import read_landmarks
from catalog.store.ingest import ingest_dump
from catalog.store.reader import Store
from catalog.synthetic.dump import SyntheticSpec, landmarks, picture, write_dump, write_landmarks_of
from stage1_cnn.config import Augment, Stage1Config
from stage1_cnn.device import choose_compute
from stage1_cnn.networks.backbones import build
from stage1_cnn.networks.landmarks import LandmarkVgg16, heat, landmark_error, landmark_loss
from stage1_cnn.predict import Predictor
from stage1_cnn.training.learner import Learner, Schedule
from stage1_cnn.training.setup import TrainingJob
from stage1_cnn.training.trainer import train_stage1
from stage1_cnn.transforms import EvalTransform, TrainTransform
from tests.conftest import PRECISION

CONFIG = Stage1Config(
    backbone="vgg16_landmarks",
    width=0.1,
    weights="none",
    image_size=64,
    epochs=1,
    batch_size=16,
    device="cpu",
    precision=PRECISION,
    augment={"flip": False},
    lr=1e-3,
    workers=0,
)
SPEC = SyntheticSpec(categories=4, products=60, side=64, seed=2)


def check_step(name: str, side: int, **options: object) -> None:
    """One step of training: the loss is a number, and every weight has a gradient that is one."""
    network = build(name, 5)
    config = Stage1Config(backbone=name, image_size=side, **options)
    learner = Learner(
        network, config, choose_compute("cpu", "fp32"), lr=1e-4, schedule=Schedule(1, 0)
    )
    images, points = torch.rand(2, 3, side, side), torch.rand(2, 8, 3)
    extra = (points,) if options else ()
    loss = learner.step([(images, torch.tensor([1, 4]), *extra)])
    assert torch.isfinite(loss)
    assert all(
        p.grad is not None and p.grad.isfinite().all() and p.grad.any()
        for p in network.parameters()
    )
    assert network.eval()(images).shape == (2, 5)
    if options:
        maps, attention = network.backbone.attention_maps(images)
        assert (maps.shape, attention.shape) == ((2, 8, side, side), (2, 1, side // 8, side // 8))


LARGE = [
    ("resnet34", 224),
    ("resnet50", 224),
    ("densenet121", 224),
    ("vgg16", 224),
    ("alexnet", 224),
    ("timm:nasnetalarge", 331),
]


@pytest.mark.slow
@pytest.mark.parametrize("name, side", LARGE)
def test_a_step_at_the_real_size(name: str, side: int) -> None:
    check_step(name, side)


@pytest.mark.slow
def test_a_step_of_the_landmark_network_at_the_real_size() -> None:
    check_step("vgg16_landmarks", 224, landmarks="l.csv")


def test_shapes_and_attention() -> None:
    network = LandmarkVgg16(0.1, 3).eval()
    images = torch.rand(2, 3, 64, 48)
    maps, attention = network.attention_maps(images)
    assert (maps.shape, attention.shape) == ((2, 8, 64, 48), (2, 1, 8, 6))
    assert maps.amax((2, 3)).allclose(torch.ones(2, 8)) and maps.min() >= 0
    assert attention.min() > 0 and attention.max() < 1
    with torch.no_grad():
        before = network(images)
        network.landmarks.squeeze.bias += 3
        assert not torch.allclose(network(images), before), "attention changes the answer"


def test_without_landmarks_attention_is_learnt_from_the_categories() -> None:
    network = build("vgg16_landmarks", 3, width=0.1)
    learner = Learner(
        network, CONFIG, choose_compute("cpu", "fp32"), lr=1e-4, schedule=Schedule(1, 0)
    )
    learner.step([(torch.rand(2, 3, 64, 64), torch.tensor([0, 2]))])
    assert learner.landmark_loss is None
    assert network.backbone.landmarks.draw[0].weight.grad.any()


def test_loss_is_least_where_the_landmark_is_and_nothing_where_it_is_not_seen() -> None:
    points = torch.tensor([[[12.5 / 40, 14.5 / 20, 1.0]] * 8])
    maps = torch.zeros(1, 8, 20, 40)
    right, wrong = maps.clone(), maps.clone()
    right[:, :, 14, 12], wrong[:, :, 14, 20] = 2, 2
    assert landmark_loss(right, points) < landmark_loss(maps, points) < landmark_loss(wrong, points)
    assert landmark_error(right, points).max() < 0.03
    assert landmark_error(wrong, points).min() == pytest.approx(0.2, abs=0.03)
    unseen = points * torch.tensor([1.0, 1.0, 0.0])
    assert landmark_loss(maps, unseen) == 0 and len(landmark_error(maps, unseen)) == 0
    assert heat(right).amax() == 1


@pytest.mark.parametrize(
    "augment",
    [
        {"flip": True, "crop": 1, "stretch": 1},
        {"flip": False, "crop": 0.5},
        {"flip": False, "crop": 1, "stretch": 1, "rotate": 30},
        {"flip": True, "crop": 0.7, "rotate": 20, "shift": 0.1, "shear": 10, "zoom": 0.1},
    ],
)
def test_landmarks_follow_the_photo(augment: dict) -> None:
    """A white spot stays under its landmark, whatever is done to the photo."""
    from stage1_cnn.transforms import Normaliser

    ids = np.arange(24)
    rng = np.random.default_rng(0)
    points = np.concatenate(
        [rng.uniform(0.3, 0.7, (24, 1, 2)), np.ones((24, 1, 1))], axis=2
    ).astype(np.float32)
    photos = [np.zeros((80, 120, 3), np.uint8) for _ in ids]
    for photo, ((x, y, _),) in zip(photos, points, strict=True):
        photo[int(80 * y) - 2 : int(80 * y) + 3, int(120 * x) - 2 : int(120 * x) + 3] = 255
    transform = TrainTransform(
        EvalTransform(64, 64, (0, 0, 0), (1, 1, 1)), Augment(**augment, colour=0), seed=1, epoch=1
    )
    repeats = np.zeros(24, dtype=np.int64)
    pixels = Normaliser(transform.base, torch.device("cpu"))(
        transform(photos, ids), transform.changes(ids, repeats)
    )
    moved = transform.points(points, ids, repeats)
    assert np.abs(moved[..., :2] - points[..., :2]).max() > 0.05
    checked = 0
    for image, (x, y, seen) in zip(pixels.mean(1), moved[:, 0], strict=True):
        weight = image.clamp(min=0.05) - 0.05
        if seen and weight.sum() > 1 and 0.08 < x < 0.92 and 0.08 < y < 0.92:
            checked += 1
            rows, columns = torch.meshgrid(
                torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij"
            )
            found = (
                torch.stack([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum() / 64
            )
            assert np.allclose(found, [x, y], atol=0.035)
    assert checked > 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A synthetic store and its landmarks."""
    return make_data(tmp_path_factory.mktemp("landmarks"), SPEC)


def make_data(folder: Path, spec: SyntheticSpec) -> tuple[Path, Path]:
    write_dump(folder / "train.bson", spec)
    write_landmarks_of(folder / "landmarks.csv", spec)
    ingest_dump(
        folder / "store.sqlite",
        [folder / "train.bson"],
        None,
        CatalogConfig(),
        index_folder=folder / "dumps",
        jobs=1,
    )
    return folder / "store.sqlite", folder / "landmarks.csv"


def test_it_trains_with_and_without_and_its_checkpoint_looks(
    data: tuple[Path, Path], tmp_path: Path
) -> None:
    store = Store(data[0])
    losses = []
    for name, given in (("with", data[1]), ("without", None)):
        summary = train_stage1(
            TrainingJob(store, CONFIG.model_copy(update={"landmarks": given}), tmp_path / name, {})
        )
        losses.append(summary.best["val_loss"])
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("with", "without")]
    assert lines[0] != lines[1], "the landmarks change what is learnt"
    predictor = Predictor.open(tmp_path / "with" / "best.pt", device="cpu", precision="fp32")
    maps, attention = predictor.attention_maps(torch.zeros(3, 3, 64, 64, dtype=torch.uint8))
    assert (maps.shape, attention.shape) == ((3, 8, 64, 64), (3, 1, 8, 8))
    assert max(losses) < 10, "the loss of validation is of the categories alone"


def test_weights_of_vgg16_fit_all_but_the_branch(tmp_path: Path) -> None:
    plain = build("vgg16", 4, width=0.1, seed=3)
    torch.save(
        plain.backbone.state_dict()
        | {"classifier.6.weight": torch.zeros(2), "classifier.6.bias": torch.zeros(2)},
        tmp_path / "vgg.pth",
    )
    network = build("vgg16_landmarks", 4, width=0.1, weights=str(tmp_path / "vgg.pth"), seed=5)
    assert torch.equal(network.backbone.features[0].weight, plain.backbone.features[0].weight)
    partial = {
        key: value
        for key, value in network.backbone.state_dict().items()
        if not key.endswith("squeeze.bias")
    }
    torch.save(partial, tmp_path / "partial.pth")
    with pytest.raises(ConfigError, match=r"landmarks\.squeeze\.bias is missing"):
        build("vgg16_landmarks", 4, width=0.1, weights=str(tmp_path / "partial.pth"))


@pytest.mark.parametrize(
    "wrong, expected",
    [
        ({"backbone": "vgg16"}, "expected backbone vgg16_landmarks"),
        ({"augment": {"mixup": 0.2}}, "can't follow photos"),
        ({"sampling": "levelled"}, "can't follow photos"),
    ],
)
def test_what_landmarks_can_not_do_is_refused(wrong: dict, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        Stage1Config(**{"backbone": "vgg16_landmarks", "landmarks": "l.csv", **wrong})


@pytest.mark.slow
def test_the_landmark_loss_lowers_the_landmark_error(tmp_path: Path) -> None:
    """On a synthetic dump, photos of other products than those that were trained on."""
    path, csv_path = make_data(tmp_path, replace(SPEC, products=500, duplicates=0, blanks=0))
    store, known = Store(path), read_landmarks(csv_path)
    table = store.images("val_a", "val_b")
    photos = [
        np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        for data in store.read(table.image_id)
    ]
    points, errors = torch.from_numpy(known.of(table.image_id)), {}
    for name, given in (("with", csv_path), ("without", None)):
        config = CONFIG.model_copy(update={"landmarks": given, "epochs": 10, "width": 0.25})
        train_stage1(TrainingJob(store, config, tmp_path / name, {}))
        predictor = Predictor.open(tmp_path / name / "last.pt", device="cpu", precision="fp32")
        maps, _ = predictor.attention_maps(predictor.transform(photos))
        errors[name] = float(landmark_error(torch.from_numpy(maps), points).mean())
    print(f"mean landmark error on {len(table)} photos, shares of the side: {errors}")
    assert errors["with"] < 0.5 * errors["without"]


def test_synthetic_photos_and_landmarks_go_together() -> None:
    assert picture(SPEC, 3, 0) == picture(SPEC, 3, 0)
    assert np.array_equal(landmarks(SPEC, 3, 0), landmarks(SPEC, 3, 0))
