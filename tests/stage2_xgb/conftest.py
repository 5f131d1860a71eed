"""A second stage on the planted problem, trained once."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from features.store import FeatureStore
from stage2_xgb.bundle import Bundle
from stage2_xgb.summary import Stage2Summary
from tests.stage2_xgb.planted import fit, make_rows, write


@dataclass(frozen=True)
class Fitted:
    """A feature file, and the bundle that was trained on it."""

    store: FeatureStore
    folder: Path
    summary: Stage2Summary

    def open(self) -> Bundle:
        """The bundle, opened again."""
        return Bundle.open(self.folder)


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """Features that hold the answer. Only to be read."""
    folder = tmp_path_factory.mktemp("planted")
    store = write(folder / "features.h5", make_rows())
    return Fitted(store, folder / "stage2", fit(store, folder / "stage2"))


@pytest.fixture(scope="session")
def hopeless(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """The same without the answer: the head says all that can be known."""
    folder = tmp_path_factory.mktemp("hopeless")
    store = write(folder / "features.h5", make_rows(answer=False))
    return Fitted(store, folder / "stage2", fit(store, folder / "stage2"))
