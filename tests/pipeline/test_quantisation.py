"""Answers in int8: made once, measured, refused if they lose too much."""

import json
from pathlib import Path

import pytest

from benchmarks.agreement import compared, evaluation, scored, write_test_split
from catalog.errors import ShelfsortError
from pipeline import quantisation, steps
from pipeline.cli import main
from tests.pipeline.scoring.test_agreement import with_precision
from tests.pipeline.tiny import Tiny

pytest.importorskip("onnxscript", reason="needs the extra export")


@pytest.fixture
def copy(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """A run whose few products of val_b may be lost: one alone is more than the limit."""
    for module in ("pipeline.quantisation", "pipeline.scoring.agreement"):
        monkeypatch.setattr(f"{module}.MOST_LOST", 0.2)
    return tiny.copy(tmp_path / "run")


def score(run: Tiny, out: Path, *more: str) -> int:
    source = str(run.data / "test.bson")
    command = ["score", source, "--run", str(run.folder), "--out", str(out)]
    return main([*command, "--set", "score.precision=int8", *more])


def test_score_quantises_once_and_says_how_well_it_agrees(
    copy: Tiny,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert score(copy, tmp_path / "out") == 0
    said, kept = capsys.readouterr().out, copy.run.stage1 / "int8.onnx"
    assert "features: int8 loses " in said and f" layers stay in fp32 -> {kept}" in said
    assert (
        "(precision was 'fp32', is now 'int8'; runtime was 'torch', is now 'onnx')" in caplog.text
    )
    made = json.loads((tmp_path / "out" / "_SUCCESS").read_text())["made_from"]
    assert (made["precision"], made["runtime"]) == ("int8", "onnx")
    figures = json.loads(kept.with_suffix(".json").read_text())
    assert figures["lost"].keys() == {"val_a", "val_b"} and figures["layers_in_fp32"] == 0
    written = kept.stat().st_mtime_ns
    assert score(copy, tmp_path / "again") == 0
    assert kept.stat().st_mtime_ns == written and "int8 loses" not in capsys.readouterr().out


def test_int8_that_loses_too_much_is_refused(
    copy: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert score(copy, tmp_path / "out") == 0
    monkeypatch.setattr("pipeline.scoring.agreement.MOST_LOST", -1)
    assert score(copy, tmp_path / "refused") == 2
    assert "products of val_b by both stages, expected at most" in capsys.readouterr().err
    assert not (tmp_path / "refused" / "_SUCCESS").exists()
    (copy.run.stage1 / "int8.json").unlink()
    monkeypatch.setattr("pipeline.quantisation.MOST_LOST", -1)
    with pytest.raises(
        ShelfsortError, match=r"int8 loses \S+ points of \d+ photos of val_b, expec"
    ):
        quantisation.keep_int8(copy.run, print)
    assert not (copy.run.stage1 / "int8.json").exists()


def test_what_is_evaluated_in_int8_answers_in_int8(
    copy: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    features = copy.config.features.model_copy(update={"runtime": "auto"})
    base = copy.config.model_copy(update={"views": {}, "features": features})
    run, config = copy.run, with_precision(base, "int8")
    for step in (steps.features, steps.stage2, steps.evaluate):
        step(run, config, rebuild=True)
    assert run.features.computed_with == {"device": "cpu", "precision": "int8", "runtime": "onnx"}
    dump = write_test_split(run, tmp_path / "test.bson")
    figures = compared(evaluation(run), scored(run, config, dump, tmp_path / "out"))
    assert figures["same"] >= 0.98 and figures["within"] >= 0.9, figures
    assert "than what was evaluated" not in caplog.text
