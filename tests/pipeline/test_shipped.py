"""Configurations by name, in a checkout; tests/test_wheel.py has the installed ones."""

from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.config import load_config
from pipeline.shipped import CONFIGS, config_path, shipped_configs
from stage1_cnn.config import Stage1Config

ROOT = Path(__file__).parents[2]


def test_every_configuration_has_a_name_and_says_what_for() -> None:
    found = list(shipped_configs())
    folder = ROOT / "configs"
    assert {name for name, _ in found} == {
        str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml")
    }
    assert all(len(purpose) > 10 for _, purpose in found)
    assert found[0].name == "capstone" and "/" in found[-1].name


def test_a_name_is_a_shipped_file_unless_there_is_such_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert config_path("photos") == CONFIGS / "photos.yaml", "a folder is no configuration"
    assert config_path("networks/resnet50") == CONFIGS / "networks" / "resnet50.yaml"
    assert config_path("absent") == Path("absent")
    (tmp_path / "demo").write_text("")
    assert config_path("demo") == Path("demo")


def test_commands_take_names_and_list_them(capsys: pytest.CaptureFixture) -> None:
    assert main(["configs"]) == 0
    *lines, folder = capsys.readouterr().out.splitlines()
    assert folder == f"The files: {ROOT / 'configs'}"
    assert lines[0].split("  ")[0] == "capstone" and "photos" in [line.split()[0] for line in lines]
    assert main(["config", "--config", "capstone"]) == 0
    by_name = capsys.readouterr().out
    assert main(["config", "--config", str(ROOT / "configs" / "capstone.yaml")]) == 0
    assert capsys.readouterr().out == by_name


def test_another_network_for_stage_1_leaves_the_views_theirs() -> None:
    """As the head of photos.yaml says."""
    words = ["stage1.backbone=resnet18", "stage1.weights=resnet18.pth", "stage1.image_size=64"]
    config = load_config(CONFIGS / "photos.yaml", words)
    views = {name: config.view(name) for name in ("frozen", "lite1", "lite2")}
    networks = {name: view for name, view in views.items() if isinstance(view, Stage1Config)}
    assert {name: (view.backbone, view.weights) for name, view in networks.items()} == {
        "frozen": ("resnet18", "resnet18.pth"),
        "lite1": ("efficientnet_lite1", "imagenet"),
        "lite2": ("efficientnet_lite2", "imagenet"),
    }
