"""What is stale further up is refused, with the command that rebuilds it, and not passed on."""

from pathlib import Path

import pytest

from catalog.artifacts import read_json, write_json
from catalog.errors import ArtifactError
from pipeline import steps
from pipeline.run_folder import RunFolder
from tests.pipeline.tiny import Tiny


def with_another_checkpoint(tiny: Tiny, folder: Path) -> RunFolder:
    """The tiny run after only stage 1 was trained again."""
    folder.mkdir()
    for path in tiny.run.folder.iterdir():
        if path.name != "stage1":
            (folder / path.name).symlink_to(path)
    (folder / "stage1").mkdir()
    (folder / "stage1" / "best.pt").write_bytes(tiny.run.checkpoint.read_bytes())
    summary = read_json(tiny.run.stage1 / "summary.json", "")
    write_json(folder / "stage1" / "summary.json", summary | {"checkpoint": "0" * 64})
    return RunFolder(folder)


@pytest.mark.parametrize("step", ["stage2", "evaluate", "features"])
def test_features_of_another_checkpoint_are_refused(tiny: Tiny, tmp_path: Path, step: str) -> None:
    run = with_another_checkpoint(tiny, tmp_path / "run")
    with pytest.raises(ArtifactError, match=r"checkpoint was .* \(made by step features\)"):
        getattr(steps, step)(run, tiny.config, rebuild=False, say=print)
