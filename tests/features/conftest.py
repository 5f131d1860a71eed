"""What the tests of features share: rows for a features.h5, and a network that never trained."""

import numpy as np
import pytest
import torch

from catalog.store.reader import Store
from stage1_cnn import checkpoint
from stage1_cnn.config import Stage1Config
from stage1_cnn.networks.backbones import build
from stage1_cnn.predict import Predictor
from stage1_cnn.transforms import EvalTransform
from tests.features.rows import Made, make_rows


@pytest.fixture(scope="session")
def made() -> Made:
    """Some hundred rows."""
    return make_rows()


@pytest.fixture(scope="session")
def predictor(small_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """A network with random weights, opened from its checkpoint as any other."""
    config = Stage1Config(backbone="resnet18", weights="none", image_size=32)
    taxonomy = small_store.taxonomy
    network = build(config.backbone, len(taxonomy), seed=3)
    content = {
        "made_from": {},
        "config": config.model_dump(mode="json"),
        "transform": EvalTransform.from_config(config).to_json(),
        "taxonomy": taxonomy.to_json(),
        "network": network.state_dict(),
        "train_images": _counts(small_store),
        "epoch": 1,
        "phase": "finetune",
        "metrics": {},
    }
    path = tmp_path_factory.mktemp("predictor") / "stage1" / "best.pt"
    path.parent.mkdir()
    checkpoint.save(path, content)
    return Predictor.open(path, device="cpu", precision="fp32")


def _counts(store: Store) -> torch.Tensor:
    return torch.from_numpy(
        np.bincount(store.images("train").class_index, minlength=len(store.taxonomy))
    )
