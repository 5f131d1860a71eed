"""The tiny run that the tests of the pipeline share."""

from pathlib import Path

import pytest

from pipeline.model import TwoStageModel
from tests.pipeline.shop import make_shop
from tests.pipeline.tiny import Tiny, make


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """600 products of 8 categories through every step. Only to be read."""
    return make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def model(tiny: Tiny) -> TwoStageModel:
    """Both stages of the tiny run."""
    return TwoStageModel.open(tiny.run, "cpu", "fp32")


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of products with texts as keys. Only to be read."""
    return make_shop(tmp_path_factory.mktemp("shop"))
