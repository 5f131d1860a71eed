import errno
import os
import pickle
from pathlib import Path

import pytest
import torch

from catalog.errors import ArtifactError
from stage1_cnn import checkpoint

CONTENT = {
    "made_from": {"store": "ab12", "config": {"lr": 0.1}},
    "config": {"backbone": "resnet18"},
    "transform": {},
    "taxonomy": {},
    "network": {"head.weight": torch.arange(4000.0).view(40, 100)},
    "train_images": torch.tensor([3, 4]),
    "epoch": 2,
    "phase": "head",
    "metrics": {"val_top1": 0.5},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "NAME" / "stage1" / "best.pt"


class Payload:
    """Unpickled, it would make a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.target),)


def test_round_trip(path: Path) -> None:
    checkpoint.save(path, CONTENT)
    found = checkpoint.load(path)
    assert found["schema"] == checkpoint.SCHEMA
    assert torch.equal(found.pop("network")["head.weight"], CONTENT["network"]["head.weight"])
    assert found["made_from"] == CONTENT["made_from"]
    assert list(path.parent.iterdir()) == [path]


def test_every_error_names_the_step(path: Path) -> None:
    with pytest.raises(
        ArtifactError,
        match=r"best\.pt: no such file \(made by step stage1\)",
    ):
        checkpoint.load(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated(path: Path, share: float) -> None:
    checkpoint.save(path, CONTENT)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ArtifactError, match=r"best\.pt: .*step stage1"):
        checkpoint.load(path)


def test_a_changed_byte_among_the_weights(path: Path) -> None:
    checkpoint.save(path, CONTENT)
    data = bytearray(path.read_bytes())
    place = data.index(CONTENT["network"]["head.weight"].numpy().tobytes()[:400])
    data[place + 200] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="damaged"):
        checkpoint.load(path)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_code_is_refused_and_not_run(path: Path, form: str) -> None:
    target = path.parent / "owned"
    path.parent.mkdir(parents=True)
    content = {**CONTENT, "schema": checkpoint.SCHEMA, "metrics": Payload(target)}
    if form == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(ArtifactError, match="could run code" if form == "torch" else "damaged"):
        checkpoint.load(path)
    assert not target.exists()


def test_another_schema_names_both(path: Path) -> None:
    checkpoint.save(path, {**CONTENT, "schema": 99})
    with pytest.raises(ArtifactError, match=f"schema 99, expected {checkpoint.SCHEMA}"):
        checkpoint.load(path)


def test_only_last_resumes(path: Path) -> None:
    checkpoint.save(path, CONTENT)
    with pytest.raises(ArtifactError, match="has no optimizer"):
        checkpoint.load(path, resume=True)


def test_something_else(path: Path) -> None:
    path.parent.mkdir(parents=True)
    torch.save(torch.zeros(3), path)
    with pytest.raises(ArtifactError, match="not a checkpoint of stage 1"):
        checkpoint.load(path)


def test_where_there_are_no_hard_links_the_one_before_is_a_copy(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(
            errno.EPERM, "Operation not permitted"
        )  # as exFAT and some network file systems

    monkeypatch.setattr(os, "link", refused)
    resume = dict.fromkeys(checkpoint.RESUME_KEYS)
    for epoch in (1, 2, 3):
        checkpoint.save_last(path.parent, CONTENT | resume | {"epoch": epoch})
    assert [
        checkpoint.load(path.with_name(name), resume=True)["epoch"]
        for name in ("before.pt", "last.pt")
    ] == [2, 3]
