"""Networks side by side: what is trained, measured, kept, and not done again."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest

from catalog.artifacts import read_json
from catalog.errors import ArtifactError, ConfigError
from pipeline.cli import main
from pipeline.experiments import compare as module
from pipeline.experiments.compare import classification_report, compare_networks, markdown
from pipeline.run_folder import RunFolder
from stage1_cnn.config import Stage1Config
from tests.conftest import PRECISION, SmallDump
from tests.pipeline.tiny import snapshot

FIRST = (
    "stage1: {backbone: mobilenet_v3_small, weights: none, image_size: 32, epochs: 2, lr: 2.0e-3, "
    "batch_size: 16}\n"
)
SECOND = (
    "stage1: {backbone: vanilla, width: 0.02, weights: none, image_size: 32, epochs: 1, "
    "batch_size: 16}\n"
)


@pytest.fixture(scope="module")
def compared(
    small_dump: SmallDump, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """A run folder after a comparison of two networks, twice each, and the command's arguments."""
    folder = tmp_path_factory.mktemp("compare")
    (folder / "small.yaml").write_text(FIRST)
    (folder / "plain.yaml").write_text(SECOND)
    run = folder / "run"
    dump = ["--dump", str(small_dump.path), "--categories", str(small_dump.categories)]
    assert main(["ingest", "--run", str(run), *dump, "--set", "jobs=1"]) == 0
    command = [
        "compare",
        str(folder / "small.yaml"),
        str(folder / "plain.yaml"),
        "--run",
        str(run),
        "--repeats",
        "2",
    ]
    assert main([*command, "--set", f"stage1.precision={PRECISION}"]) == 0
    return run, [*command, "--set", f"stage1.precision={PRECISION}"]


def test_the_table_has_a_row_a_network_and_its_figures_are_those_of_the_trainings(
    compared: tuple[Path, list[str]],
) -> None:
    run, _ = compared
    table = pandas.read_csv(run / "compare" / "table.csv").set_index("network")
    assert set(table.index) == {"small", "plain"}
    assert table["top1"].is_monotonic_decreasing
    for name, row in table.iterrows():
        found = [
            read_json(run / "compare" / name / f"seed-{seed}" / "validation.json", "")
            for seed in (0, 1)
        ]
        assert row["top1"] == pytest.approx(np.mean([one["top1"] for one in found]), abs=1e-5)
        assert (row["least"], row["most"]) == pytest.approx(
            sorted(one["top1"] for one in found), abs=1e-5
        )
        assert row["low"] < row["top1"] < row["high"]
        assert row["images"] == len(RunFolder(run).store.images("val_a", "val_b"))
        for one in found:
            true, predicted, count = np.array(one["confusion"]).T
            assert count.sum() == one["images"]
            assert count[true == predicted].sum() / one["images"] == pytest.approx(one["top1"])
    assert table.loc["plain", "parameters"] < 10_000 < table.loc["small", "parameters"]


def test_figures_and_reports_are_there(compared: tuple[Path, list[str]]) -> None:
    folder = compared[0] / "compare"
    assert "small" in (folder / "curves.svg").read_text()
    assert (folder / "table.md").read_text().count("\n| ") == 3
    for name in ("small", "plain"):
        assert (folder / name / "confusion.svg").stat().st_size > 5000
        report = pandas.read_csv(folder / name / "report.csv")
        assert report["support"].sum() == len(RunFolder(compared[0]).store.images("val_a", "val_b"))


def test_nothing_is_trained_again_and_the_same_files_come_out(
    compared: tuple[Path, list[str]], capsys: pytest.CaptureFixture
) -> None:
    run, command = compared
    before = snapshot(run)
    assert main(command) == 0
    assert snapshot(run) == before
    out = capsys.readouterr().out
    assert out.count(": current (") == 4
    assert "the best: shelfsort stage1 --run" in out


def test_test_is_never_read() -> None:
    assert not {"test", "reserve"} & set(module.SPLITS)


def test_the_winners_training_is_that_of_the_run(
    compared: tuple[Path, list[str]], capsys: pytest.CaptureFixture
) -> None:
    """What the command that is printed makes has the same fingerprint: of the same seed,
    configuration and overrides."""
    run, command = compared
    assert main(command) == 0
    printed = shlex.split(re.search(r"the best: shelfsort (.*); then", capsys.readouterr().out)[1])
    assert main(printed) == 0
    winner = Path(printed[printed.index("--config") + 1]).stem
    trained = read_json(run / "compare" / winner / "seed-0" / "stage1" / "summary.json", "")
    own = read_json(run / "stage1" / "summary.json", "")
    assert own["made_from"] == trained["made_from"]
    assert own["best"]["val_top1"] == trained["best"]["val_top1"]


def test_other_settings_are_refused_until_rebuilt(compared: tuple[Path, list[str]]) -> None:
    run = RunFolder(compared[0])
    size = {"width": 0.03, "image_size": 32, "epochs": 1, "batch_size": 16}
    other = Stage1Config(backbone="vanilla", weights="none", precision=PRECISION, **size)
    with pytest.raises(ArtifactError, match=r"config\.width was 0\.02, is now 0\.03"):
        compare_networks(run, {"plain": other}, 1)


@pytest.mark.parametrize("name", ["", "..", "a/b"])
def test_a_name_must_be_good_for_a_folder(compared: tuple[Path, list[str]], name: str) -> None:
    with pytest.raises(ConfigError, match="can't name a folder"):
        compare_networks(RunFolder(compared[0]), {name: Stage1Config()}, 1)


def test_networks_answer_in_one_precision_whatever_they_are_trained_in(
    compared: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder, command = compared
    run = shutil.copytree(folder, tmp_path / "run")
    again = [str(run) if word == str(folder) else word for word in command]
    validation = run / "compare" / "small" / "seed-0" / "validation.json"
    assert read_json(validation, "")["made_from"]["precision"] == "fp32"
    assert main([*again, "--set", "features.precision=bf16"]) == 0
    assert read_json(validation, "")["made_from"]["precision"] == "bf16"
    assert capsys.readouterr().out.count(": current (") == 4
    (tmp_path / "bf16.yaml").write_text("features: {precision: bf16}\n")
    assert main([*again[:2], str(tmp_path / "bf16.yaml"), *again[3:]]) == 2
    assert "features.precision is auto and bf16, expected one for all" in capsys.readouterr().err


def test_one_name_twice_is_refused(
    compared: tuple[Path, list[str]], capsys: pytest.CaptureFixture
) -> None:
    _, command = compared
    assert main([*command[:2], command[1], *command[3:]]) == 2
    assert "two configurations have the same file name" in capsys.readouterr().err


def test_what_a_network_lacks_is_said_before_the_first_training(
    small_dump: SmallDump, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    dump = ["--dump", str(small_dump.path), "--categories", str(small_dump.categories)]
    assert main(["ingest", "--run", str(run.folder), *dump, "--set", "jobs=1"]) == 0
    shared = {"backbone": "vanilla", "width": 0.02, "image_size": 32, "epochs": 1}
    networks = {
        "whole": Stage1Config(weights="none", **shared),
        "lacking": Stage1Config(weights=str(tmp_path / "weights.pt"), **shared),
    }
    with pytest.raises(ConfigError, match=r"^compare: lacking: .*weights\.pt"):
        compare_networks(run, networks, 1)
    assert not (run.folder / "compare").exists()


def test_classification_report_by_hand(compared: tuple[Path, list[str]]) -> None:
    taxonomy = RunFolder(compared[0]).store.taxonomy
    table = classification_report(np.array([[0, 0, 3], [0, 1, 1], [1, 1, 2], [1, 2, 2]]), taxonomy)
    assert table["support"].tolist() == [4, 4, 0]
    assert table["precision"].tolist() == pytest.approx([1, 2 / 3, 0])
    assert table["recall"].tolist() == pytest.approx([0.75, 0.5, 0])
    assert table["f1"].tolist() == pytest.approx([6 / 7, 4 / 7, 0])


def test_markdown_of_one_training_has_no_range(compared: tuple[Path, list[str]]) -> None:
    row = module.Row(
        "a", "resnet18", 11_000_000, 1, 100, 0.5, 0.4, 0.6, 0.5, 0.5, 0.45, 0.9, 120.0, 60.0
    )
    assert (
        markdown([row]).splitlines()[2]
        == "| a | resnet18 | 0.5000 [0.4000, 0.6000] | 0.4500 | 0.9000 | 11.00 M | 120 | 60 |"
    )
