"""The tiny run that the tests of the pipeline share."""

import pytest

from pipeline.model import TwoStageModel
from tests.pipeline.tiny import Tiny, make


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """600 products of 8 categories through every step. Only to be read."""
    return make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def model(tiny: Tiny) -> TwoStageModel:
    """Both stages of the tiny run."""
    return TwoStageModel.open(tiny.run, "cpu", "fp32")
