"""Every way of answering agrees with what was evaluated, whatever stage 1 was trained in; if
something else computes, the command says how well it agrees."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.agreement import (
    compared,
    evaluation,
    predictions,
    read_elsewhere,
    scored,
    write_test_split,
)
from catalog.artifacts import write_sealed
from catalog.errors import ArtifactError
from pipeline import steps
from pipeline.cli import main
from pipeline.config import RunConfig
from pipeline.model import TwoStageModel
from pipeline.retrieval.similar import Finder
from pipeline.run_folder import RunFolder
from pipeline.scoring.agreement import Agreement, measure
from pipeline.views import choose_runtime
from stage1_cnn.device import inference_compute
from stage1_cnn.runtimes import candidates
from tests.pipeline.tiny import SETTINGS, Tiny, make

FP32 = {"device": "cpu", "precision": "fp32", "runtime": "torch"}


@pytest.fixture(scope="session")
def tiny_bf16(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The tiny run with stage 1 trained in bf16, which PyTorch emulates if the processor lacks it.
    Only to be read."""
    settings = (*SETTINGS, "stage1.precision=bf16", "stage1.epochs=1", "views={}")
    return make(tmp_path_factory.mktemp("tiny-bf16"), settings)


@pytest.fixture(params=["tiny", "tiny_bf16"])
def either(request: pytest.FixtureRequest) -> Tiny:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def evaluated_in_bf16(tiny_bf16: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A run whose features were computed in bf16 as well, and all that follows. Only to be read."""
    copy = tiny_bf16.copy(tmp_path_factory.mktemp("evaluated-in-bf16") / "run")
    config = with_precision(copy.config, "bf16")
    for step in (steps.features, steps.stage2, steps.evaluate):
        step(copy.run, config, rebuild=True)
    copy.run.save_config(config)
    return copy


def with_precision(config: RunConfig, precision: str) -> RunConfig:
    return config.model_copy(
        update={"features": config.features.model_copy(update={"precision": precision})}
    )


def test_every_way_answers_as_was_evaluated(
    tiny_bf16: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After training in bf16; test_export, test_score and test_predict say the same of training in
    fp32."""
    monkeypatch.setattr(sys, "path", sys.path.copy())  # the exported reader adds its own folder
    run, config = tiny_bf16.run, tiny_bf16.config
    dump, expected = write_test_split(run, tmp_path / "test.bson"), evaluation(run)
    ways = {
        "score": scored(run, config, dump, tmp_path / "score"),
        "predict": predictions(run, config, dump, tmp_path, 20),
        "reader": read_elsewhere(run, dump, tmp_path),  # by ONNX Runtime
    }
    for name, found in ways.items():
        figures = compared(expected, found)
        assert figures["products"] == (20 if name == "predict" else len(expected)), name
        # a feature's last bit may put a product on a tree's other side, and the steps are large in
        # so small a run
        assert figures["same"] >= 0.98 and figures["within"] >= 0.9 and figures["most"] < 0.05, (
            name,
            figures,
        )


def test_answers_are_computed_in_fp32_whatever_training_was(either: Tiny) -> None:
    run, config = either.run, either.config
    assert run.features.computed_with == FP32 and run.features.made_from["precision"] == "fp32"
    model = TwoStageModel.open(run, "cpu", config.features.precision)
    assert (
        model.predictors[0].computed_with
        == model.bundle.made_from["computed_with"]["stage1"]
        == FP32
    )


def test_features_of_another_precision_are_refused(
    tiny: Tiny, evaluated_in_bf16: Tiny, capsys: pytest.CaptureFixture
) -> None:
    for step in ("features", "stage2", "evaluate"):
        assert main([step, "--run", str(tiny.folder), "--set", "features.precision=bf16"]) == 2
        error = capsys.readouterr().err
        assert (
            "features.h5: computed in fp32 on cpu, features.precision is bf16; rebuild it with: "
            in error
        )
        assert (
            f"shelfsort features --run {tiny.folder} --set features.precision=bf16 --rebuild"
            in error
        )
    run = evaluated_in_bf16.run
    run.require_precision("bf16")
    for other in ("fp32", "auto"):  # auto is fp32 on a processor
        with pytest.raises(
            ArtifactError, match=f"computed in bf16 on cpu, features.precision is {other}"
        ):
            run.require_precision(other)


def test_other_arithmetic_is_said_with_its_agreement(
    evaluated_in_bf16: Tiny,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = evaluated_in_bf16.run
    image_id = run.store.images("test").image_id[0]
    (tmp_path / "photo.jpg").write_bytes(run.store.read([image_id])[0])
    predict = ["predict", str(tmp_path / "photo.jpg"), "--run", str(run.folder)]
    score = evaluated_in_bf16.scoring(tmp_path / "out")
    assert main(predict) == 0 and main(score) == 0
    assert not caplog.text
    for command in (predict, [*score[:-1], str(tmp_path / "other")]):
        assert main([*command, "--set", "features.precision=fp32"]) == 0
        assert "than what was evaluated (precision was 'bf16', is now 'fp32'): of " in caplog.text
        assert re.search(
            r"of \d+ products of val_b \d+ \(.*%\) get the same "
            r"category, their confidences within 0",
            caplog.text,
        )
        caplog.clear()
    assert main([*score, "--set", "features.precision=fp32"]) == 2  # parts of both are not mixed
    assert "precision was 'bf16', is now 'fp32'" in capsys.readouterr().err


@pytest.fixture(scope="module", params=["onnx", "openvino"])
def by_another_runtime(
    request: pytest.FixtureRequest, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory
) -> Tiny:
    """A run whose features another runtime computed, and all that follows. Only to be read."""
    if request.param not in candidates(inference_compute("cpu", "fp32")):
        pytest.skip(f"{request.param} is not installed")
    copy = tiny.copy(tmp_path_factory.mktemp(request.param) / "run")
    section = copy.config.features.model_copy(update={"runtime": request.param})
    config = copy.config.model_copy(update={"features": section, "views": {}})
    for step in (steps.features, steps.stage2, steps.evaluate):
        step(copy.run, config, rebuild=True)
    copy.run.save_config(config)
    return copy


def test_the_runtime_that_was_evaluated_answers(
    by_another_runtime: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, config = by_another_runtime.run, by_another_runtime.config
    assert run.features.computed_with["runtime"] == config.features.runtime
    dump = write_test_split(run, tmp_path / "test.bson")
    figures = compared(evaluation(run), scored(run, config, dump, tmp_path / "score"))
    assert figures["same"] >= 0.98 and figures["within"] >= 0.9, figures
    (tmp_path / "photo.jpg").write_bytes(run.store.read(run.store.images("test").image_id[:1])[0])
    predict = ["predict", str(tmp_path / "photo.jpg"), "--run", str(run.folder)]
    assert main(predict) == 0 and not caplog.text
    assert main([*predict, "--set", "score.runtime=torch"]) == 0
    assert f"(runtime was '{config.features.runtime}', is now 'torch'): of " in caplog.text
    made = json.loads((tmp_path / "score" / "_SUCCESS").read_text())["made_from"]
    assert made["runtime"] == config.features.runtime


def test_the_fastest_runtime_is_measured_once(tiny: Tiny, tmp_path: Path) -> None:
    known = candidates(inference_compute("cpu", "fp32"))
    if known == ["torch"]:
        pytest.skip("no other runtime is installed")
    copy, told = tiny.copy(tmp_path / "run"), list[str]()
    section = copy.config.features.model_copy(update={"runtime": "auto"})
    config = copy.config.model_copy(update={"features": section})
    fastest = choose_runtime(copy.run, config, told.append)
    kept = json.loads(copy.run.runtime_path.read_text())
    assert list(kept["images_per_second"]) == known
    assert fastest == max(known, key=kept["images_per_second"].__getitem__)
    assert f"; {fastest} computes (" in told[0]
    slowest = min(known, key=kept["images_per_second"].__getitem__)
    kept.pop("fingerprint")
    write_sealed(copy.run.runtime_path, kept | {"fastest": slowest})
    assert choose_runtime(copy.run, config, told.append) == slowest  # as it was kept
    made = kept["made_from"] | {"checkpoint": "another"}
    write_sealed(copy.run.runtime_path, kept | {"made_from": made, "fastest": "nothing"})
    assert choose_runtime(copy.run, config, told.append) in known
    assert len(told) == 2  # measured again


def test_the_agreement_is_that_of_the_two_answers(evaluated_in_bf16: Tiny) -> None:
    run = evaluated_in_bf16.run
    alike, other = (
        measure(run, TwoStageModel.open(run, "cpu", precision)) for precision in ("bf16", "fp32")
    )
    assert alike.products == other.products > 10
    assert alike.same >= 0.98 * alike.products and alike.most_of_99 < other.most_of_99
    assert other.most > 1e-4  # it was another arithmetic
    assert measure(run, TwoStageModel.open(run, "cpu", "fp32"), photos=8).products <= 8
    first, second = (np.log([[0.7, 0.3], row, [0.5, 0.5]]) for row in ([0.6, 0.4], [0.2, 0.8]))
    found = Agreement.between(first, second, np.array([0, 0, 0]))
    assert (found.products, found.same) == (3, 2) and found.most == pytest.approx(0.2)
    assert found.right == (3, 2) and found.lost == pytest.approx(1 / 3)
    assert "of 3 products of val_b 2 (66.7%) get the same category" in found.text()
    assert found.text().endswith("; 2 are right, 3 as evaluated")


@pytest.mark.parametrize("missing", ["store.sqlite", "features.h5"])
def test_where_it_cannot_be_measured_that_is_said(
    tiny: Tiny, tmp_path: Path, missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tiny.copy(tmp_path / "run")
    (tmp_path / "photo.jpg").write_bytes(
        copy.run.store.read([copy.run.store.images("test").image_id[0]])[0]
    )
    (copy.folder / missing).unlink()
    command = ["predict", str(tmp_path / "photo.jpg"), "--run", str(copy.folder)]
    assert main(command) == 0 and not caplog.text
    assert main([*command, "--set", "features.precision=bf16"]) == 0
    assert (
        "(precision was 'fp32', is now 'bf16'): how well the answers agree could not be measured: "
        in caplog.text
    )
    assert f"{missing}: no such file" in caplog.text


def test_look_ups_are_in_fp32_whatever_the_run_computes_in(
    tiny_bf16: Tiny, evaluated_in_bf16: Tiny, tmp_path: Path
) -> None:
    copy = evaluated_in_bf16.copy(tmp_path / "run")
    finder, exact = Finder.open(copy.run), tiny_bf16.run.features
    assert finder.predictor.computed_with == FP32 and finder.index.store.computed_with == FP32
    rows = slice(0, len(exact))
    theirs, mine, in_bf16 = (
        store.features(rows).astype(float)
        for store in (exact, finder.index.store, copy.run.features)
    )
    np.testing.assert_allclose(mine, theirs, rtol=2e-3, atol=1e-4)
    assert np.abs(in_bf16 - theirs).max() > 10 * np.abs(mine - theirs).max()
    shutil.rmtree(tmp_path / "run" / "similar")
    (listed := tmp_path / "listed").mkdir()
    photos = copy.run.store.read(copy.run.store.images("test").image_id[:3])
    for place, photo in enumerate(photos):
        (listed / f"{place}.jpg").write_bytes(photo)
    tables = []
    for place, run in enumerate((tiny_bf16, copy)):
        out = tmp_path / str(place)
        steps.lookalikes(
            RunFolder(run.folder), run.config, [str(run.data / "test.bson")], listed, 0.9, out
        )
        tables.append((out / "lookalikes-00000.parquet").read_bytes())
    assert tables[0] == tables[1]
