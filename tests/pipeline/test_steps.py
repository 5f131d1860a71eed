"""The steps: each once, none silently on something else."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest

from catalog.arrays import find_rows
from catalog.artifacts import read_json, read_sealed, sha256_file, write_sealed
from catalog.errors import ArtifactError
from catalog.synthetic.dump import SyntheticSpec
from pipeline import steps
from pipeline.cli import main
from pipeline.config import load_config
from pipeline.demo import write_synthetic
from pipeline.evaluation.evaluate import published
from pipeline.model import TwoStageModel
from pipeline.second_stage import class_mixes
from stage2_xgb.bundle import Bundle
from stage2_xgb.rivals import RIVALS
from tests.pipeline.tiny import Tiny, snapshot

STEPS = ("stage1", "features", "stage2", "evaluate")


@pytest.fixture
def copy(tiny: Tiny, tmp_path: Path) -> Tiny:
    """A run of one's own."""
    return tiny.copy(tmp_path / "run")


def test_every_artefact_is_where_the_formats_say(tiny: Tiny) -> None:
    files = {
        "": "store.sqlite taxonomy.json ingest.json config.yaml features.h5 "
        "views/small/features.h5 views/small/stage1/best.pt",
        "stage1/": "best.pt last.pt metrics.jsonl summary.json",
        "stage2/": "judged.parquet manifest.json products.npz shared.npz sets.parquet "
        "summary.json summary.txt",
        "evaluation/": "metrics.json items.parquet per_category.parquet confusion.parquet "
        "summary.txt",
    }
    expected = {folder + name for folder, names in files.items() for name in names.split()}
    found = snapshot(tiny.folder)
    assert expected - {"config.yaml"} <= set(found) and (tiny.folder / "config.yaml").exists()
    assert not [name for name in found if name.endswith((".tmp", ".partial", ".pkl"))]


def test_a_second_call_says_current_and_changes_nothing(
    tiny: Tiny, capsys: pytest.CaptureFixture
) -> None:
    before, config = snapshot(tiny.folder), tiny.config
    assert main(["ingest", "--run", str(tiny.folder), *tiny.ingest_options]) == 0
    for step in STEPS:
        assert main([step, "--run", str(tiny.folder)]) == 0
    text = capsys.readouterr().out
    for part in (
        "ingest: current",
        "stage1: current",
        "view small: current",
        "features: current",
        "stage2: current",
        "evaluate: current",
    ):
        assert part in text
    after = snapshot(tiny.folder)
    summary, first = (json.loads(found.pop("ingest.json")) for found in (after, before))
    of_the_last = {"changed": True, "copied": first["copied"]}  # what the last ingest brought
    assert summary | of_the_last == first
    assert [
        name for name in after if after[name] != before.get(name)
    ] == [] and after.keys() == before.keys()
    assert tiny.config == config


@pytest.mark.parametrize(
    ("step", "setting", "expected"),
    [
        ("stage1", "stage1.lr=1e-3", "config.lr was 0.002, is now 0.001"),
        ("stage2", "stage2.components=8", "config.components was 64, is now 8"),
        (
            "features",
            "views={small: {backbone: shufflenet_v2_x0_5, epochs: 2}}",
            "config.epochs was 1, is now 2",
        ),
    ],
)
def test_what_is_of_another_configuration_is_refused(
    tiny: Tiny, step: str, setting: str, expected: str, capsys: pytest.CaptureFixture
) -> None:
    before, config = snapshot(tiny.folder), tiny.config
    assert main([step, "--run", str(tiny.folder), "--set", setting]) == 2
    error = capsys.readouterr().err
    assert (
        expected in error
        and f"rebuild it with: shelfsort {step} --run {tiny.folder} --set" in error
    )
    assert snapshot(tiny.folder) == before and tiny.config == config


def test_a_place_that_shapes_nothing_may_change(copy: Tiny, capsys: pytest.CaptureFixture) -> None:
    settings = ["--set", "stage1.workers=0", "--set", "jobs=2", "--set", "features.batch_size=7"]
    for step in ("stage1", "features", "stage2"):
        assert main([step, "--run", str(copy.folder), *settings]) == 0
    assert capsys.readouterr().out.count("current") == 5


def test_a_file_of_class_weights_counts_by_its_content(
    copy: Tiny, capsys: pytest.CaptureFixture
) -> None:
    weights = copy.folder.parent / "mix.csv"
    settings = [
        "stage2.components=4",
        "stage2.pool=false",
        f"stage2.target_prior={weights}",
    ]
    command = [
        "stage2",
        "--run",
        str(copy.folder),
        *(word for setting in settings for word in ("--set", setting)),
    ]
    first, *_ = copy.run.store.taxonomy.category_ids
    assert main(command) == 2
    assert f"stage2.target_prior: {weights}: expected a CSV" in capsys.readouterr().err
    weights.write_text(f"category_id,weight\n{first},1\n")
    assert main([*command, "--rebuild"]) == main(command) == 0
    assert "stage2: current" in capsys.readouterr().out
    weights.write_text(weights.read_text().replace(",1", ",2"))
    assert main(command) == 2
    assert "made from something else: config.target_prior was" in capsys.readouterr().err


def test_rebuilt_it_is_the_same(copy: Tiny, capsys: pytest.CaptureFixture) -> None:
    before = snapshot(copy.folder)
    assert main(["stage2", "--run", str(copy.folder), "--rebuild"]) == 0
    assert main(["evaluate", "--run", str(copy.folder), "--rebuild"]) == 0
    after = snapshot(copy.folder)
    timed = {
        f"{step}/{file}"
        for step in ("stage2", "evaluation")
        for file in ("summary.json", "summary.txt", "metrics.json")
    }
    assert [name for name in after if after[name] != before.get(name) and name not in timed] == []
    assert "reclassifiers; answering" in capsys.readouterr().out


def test_another_stage_2_is_noticed_by_evaluate(copy: Tiny, capsys: pytest.CaptureFixture) -> None:
    settings = ["--set", "stage2.seed=9", "--set", "stage2.components=8"]
    assert main(["stage2", "--run", str(copy.folder), *settings, "--rebuild"]) == 0
    before = (copy.folder / "evaluation" / "items.parquet").read_bytes()
    assert main(["evaluate", "--run", str(copy.folder)]) == 2
    problem = f"{copy.folder}/evaluation/metrics.json: made from something else: stage2 was"
    remedy = f"rebuild it with: shelfsort evaluate --run {copy.folder} --rebuild"
    error = capsys.readouterr().err
    assert problem in error and remedy in error
    assert (copy.folder / "evaluation" / "items.parquet").read_bytes() == before
    assert main(["evaluate", "--run", str(copy.folder), "--rebuild"]) == 0
    assert (copy.folder / "evaluation" / "items.parquet").read_bytes() != before


def test_features_of_another_checkpoint_are_refused(copy: Tiny) -> None:
    """The view's checkpoint in the place of stage 1's."""
    for name in ("best.pt", "summary.json"):
        (copy.folder / "stage1" / name).unlink()
        (copy.folder / "views" / "small" / "stage1" / name).rename(copy.folder / "stage1" / name)
    with pytest.raises(
        ArtifactError,
        match=r"features\.h5: made from something else: checkpoint was '.{12}', is now '.{12}'",
    ):
        steps.features(
            copy.run, load_config(copy.folder / "config.yaml", ["views={}"]), rebuild=False
        )
    with pytest.raises(
        ArtifactError, match=r"no such file|view stage1 is another one now: checkpoint was"
    ):
        TwoStageModel.open(copy.run)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--dump", "absent.bson"], "absent.bson: no such file"),
        (["--categories", "absent.csv"], "absent.csv"),
        (
            ["--corrections", "bad.csv"],
            "bad.csv: line 2: as product id and category_id: expected an integer",
        ),
        (["--corrections", "unknown.csv"], "category_id 5 is not in the taxonomy"),
    ],
)
def test_what_cannot_be_ingested_removes_no_store(
    tiny: Tiny,
    tmp_path: Path,
    more: list[str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, category in (("bad", "x"), ("unknown", "5")):
        (tmp_path / f"{name}.csv").write_text(f"_id,category_id\n1,{category}\n")
    before = snapshot(tiny.folder)
    assert (
        main(["ingest", "--run", str(tiny.folder), *tiny.ingest_options, *more, "--rebuild"]) == 2
    )
    assert expected in capsys.readouterr().err
    assert snapshot(tiny.folder) == before


@pytest.mark.parametrize(
    ("step", "settings", "expected"),
    [
        ("stage1", "stage1.backbone=resnet81", "'resnet81' is unknown"),
        ("stage1", "stage1.device=cuda:99", "stage1.device: cuda:99 asked for"),
        ("stage1", "stage1.weights=absent.pth", "no such file: absent.pth"),
        (
            "stage1",
            "stage1.backbone=vgg16_landmarks stage1.width=.05 stage1.landmarks=no.csv views={}",
            "no such file: no.csv",
        ),
        ("features", "stage1.device=cuda:99", "stage1.device: cuda:99 asked for"),
        (
            "stage2",
            "stage2.target_prior=bad.csv stage2.published=true",
            "bad.csv: line 1: column category_id is missing",
        ),
        (
            "stage2 --scheduler no://scheduler",
            "stage2.published=true",
            "no://scheduler: expected a dask scheduler",
        ),
    ],
)
def test_what_cannot_be_made_removes_nothing(
    tiny: Tiny,
    tmp_path: Path,
    step: str,
    settings: str,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.csv").write_text("category,share\n1,1\n")
    before, options = (
        snapshot(tiny.folder),
        [word for setting in settings.split() for word in ("--set", setting)],
    )
    assert main([*step.split(), "--run", str(tiny.folder), *options, "--rebuild"]) == 2
    assert expected in capsys.readouterr().err
    assert snapshot(tiny.folder) == before


def test_the_mix_that_stage_1_was_shown_is_what_its_sampling_made_of_the_store(copy: Tiny) -> None:
    table = copy.run.store.images("train")
    sizes = np.bincount(table.class_index[table.fit], minlength=8)
    np.testing.assert_array_equal(class_mixes(copy.run).train, sizes)
    path = copy.folder / "stage1" / "summary.json"
    plain = json.loads(path.read_text())
    for changes, expected in (
        ({"sampling": "balanced"}, np.ones(8)),
        ({"logit_adjustment": 0.5}, sizes**0.5),
    ):
        path.write_text(
            json.dumps(plain | {"made_from": {"config": plain["made_from"]["config"] | changes}})
        )
        shown = class_mixes(copy.run).train
        np.testing.assert_allclose(shown / shown.sum(), expected / expected.sum())


def test_a_published_stage_2_of_another_training_is_no_rival(copy: Tiny) -> None:
    bundle = Bundle.open(copy.run.stage2)
    assert published(bundle) is None
    shutil.copytree(copy.run.stage2, copy.folder / "published")
    (copy.folder / "published").rename(copy.run.stage2 / "published")
    assert published(bundle).made_from == bundle.made_from
    manifest = copy.run.stage2 / "published" / "manifest.json"
    content = read_sealed(manifest, "")
    write_sealed(manifest, content | {"made_from": content["made_from"] | {"store": "another"}})
    assert published(bundle) is None


def test_rivals_stand_beside_where_they_are_asked_for(copy: Tiny) -> None:
    """Asked for once, they stay; the figures of ours are the same with and without."""

    def evaluated(**options: bool) -> tuple[dict, list[str]]:
        said: list[str] = []
        found = steps.evaluate(copy.run, copy.config, rebuild=False, say=said.append, **options)
        return found, said

    before, _ = evaluated()
    found, said = evaluated(rivals=True)
    assert not said[0].startswith("evaluate: current")
    again, said = evaluated()
    assert again["image"] == found["image"] and said[0].startswith("evaluate: current")
    assert evaluated(rivals=True)[1][0].startswith("evaluate: current")
    for unit in ("image", "product"):
        natural = found[unit]["natural"]
        assert natural["two_stage"] == before[unit]["natural"]["two_stage"]
        rivals = [name for name in RIVALS if name != "logistic_columns"]  # it has no columns
        for name in (*rivals, "published"):
            change = natural["changes"][f"two_stage_over_{name}"]["top1"]
            gain = natural["two_stage"]["top1"]["value"] - natural[name]["top1"]["value"]
            assert change["value"] == pytest.approx(gain)
            assert name not in before[unit]["natural"]
    page = "\n".join(said)
    assert "two-stage over head_all" in page and "rivals, each adjusted" in page
    assert max(map(len, page.splitlines())) <= 130


def test_the_last_fit_answers_and_is_not_evaluated(copy: Tiny, tmp_path: Path) -> None:
    """It knows all images; evaluate's figures stay those of the fit before, and say so."""
    shutil.rmtree(copy.run.stage2 / "published", ignore_errors=True)
    before = (copy.run.evaluation / "metrics.json").read_bytes()
    said: list[str] = []
    steps.stage2(copy.run, copy.config, rebuild=False, say=said.append, final=True)
    final = copy.run.stage2 / "final"
    images = int(copy.run.features.table.fit.sum())
    assert f"last fit, in {final}: experts fitted on all {images} labelled images" in said[-1]
    assert copy.run.answering == final
    assert TwoStageModel.open(copy.run, "cpu").bundle.folder == final
    written = (final / "manifest.json").stat().st_mtime_ns
    steps.stage2(copy.run, copy.config, rebuild=False, say=said.append, final=True)
    assert (final / "manifest.json").stat().st_mtime_ns == written
    said.clear()
    steps.evaluate(copy.run, copy.config, rebuild=False, say=said.append)
    assert said[0] == f"evaluate: {copy.run.stage2}, not the last fit in {final}, which knows test"
    assert (copy.run.evaluation / "metrics.json").read_bytes() == before
    dump, out = [str(copy.data / "test.bson")], tmp_path / "out"
    said.clear()
    steps.score(copy.run, copy.config, dump, out, say=said.append)
    assert any("the figures of evaluate are of the fit before" in line for line in said)


def test_too_few_products_for_val_a(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_synthetic(tmp_path, SyntheticSpec(categories=2, products=10, side=32))
    run = ["--run", str(tmp_path / "run")]
    dump = [
        "--dump",
        str(tmp_path / "train.bson"),
        "--categories",
        str(tmp_path / "category_names.csv"),
    ]
    assert main(["ingest", *run, *dump, "--set", "catalog.seed=4"]) == 0
    assert not len(Tiny(tmp_path, tmp_path / "run").run.store.images("val_a"))
    settings = (
        "backbone=shufflenet_v2_x0_5",
        "weights=none",
        "image_size=32",
        "epochs=3",
        "patience=1",
        "batch_size=2",
    )
    assert (
        main(
            [
                "stage1",
                *run,
                *(part for setting in settings for part in ("--set", f"stage1.{setting}")),
            ]
        )
        == 0
    )
    assert "best finetune epoch 3: val_a has no images" in capsys.readouterr().out


def test_an_evaluation_without_its_last_file_is_not_current(copy: Tiny) -> None:
    summary = copy.folder / "evaluation" / "summary.txt"
    summary.unlink()
    said: list[str] = []
    steps.evaluate(copy.run, copy.config, rebuild=False, say=said.append)
    assert "current" not in said[0] and summary.read_text() == said[0] + "\n"


def test_evaluate_prints_every_headline(tiny: Tiny) -> None:
    said: list[str] = []
    metrics = steps.evaluate(tiny.run, tiny.config, rebuild=False, say=said.append)
    text = "\n".join(said)
    for unit in ("image", "product"):
        for mix in ("natural", "balanced"):
            top1 = metrics[unit][mix]["two_stage"]["top1"]
            assert f"two-stage {top1['value']:.4f} [{top1['low']:.4f}, {top1['high']:.4f}]" in text
            assert f"per {unit}, {mix} mix (n {metrics[unit][mix]['counts']['n']}" in text


def test_corrections_reach_the_evaluation(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A test label is corrected: the printed commands bring the run up to date without training
    stage 1 or extracting a feature again, and evaluate says what depends on the corrected label."""
    copy = tiny.copy(tmp_path / "run")
    items = pandas.read_parquet(copy.folder / "evaluation" / "items.parquet")
    wrong = items.query("unit == 'product' and two_stage_class != class_index").iloc[0]
    answer = copy.run.store.taxonomy.category_ids[wrong["two_stage_class"]]
    file = tmp_path / "corrections.csv"
    file.write_text(f"product_id,category_id,note\n{wrong['product_id']},{answer},x\n")
    options = ["--run", str(copy.folder), *copy.ingest_options, "--corrections", str(file)]
    assert main(["ingest", *options]) == 0
    said = capsys.readouterr().out
    assert "corrections: changed 1 labels; 1 of the file's products" in said
    (commands,) = [
        line.partition(": ")[2] for line in said.splitlines() if line.startswith("to bring")
    ]
    assert "--rebuild" not in commands
    assert main(["stage2", "--run", str(copy.folder)]) == 2
    assert "labels were corrected since" in capsys.readouterr().err
    originals, names = {v: tiny.run.view(v).features for v in copy.config.view_names}, set()
    for command in ["shelfsort stage1 --run " + str(copy.folder), *commands.split(" && ")]:
        assert main(shlex.split(command)[1:]) == 0
        names.add(command.split()[1])
    assert names == {"stage1", "features", "stage2", "evaluate", "report"}
    for view, before in originals.items():
        now = copy.run.view(view).features
        assert now.made_from["store"] == copy.run.store.fingerprint != before.made_from["store"]
        assert (now.table.class_index == copy.run.store.images().class_index).all()
        rows = find_rows(before.table.image_id, now.table.image_id, before.table.image_id.argsort())
        assert (now.table.class_index != before.table.class_index[rows]).any()
        assert (now.features(slice(None)) == before.features(slice(None))[rows]).all()
        assert sha256_file(copy.run.view(view).checkpoint) == now.made_from["checkpoint"]
    found = read_json(copy.folder / "evaluation" / "metrics.json", "")["corrected_labels"]
    metrics = read_json(tiny.folder / "evaluation" / "metrics.json", "")
    assert found["test_products"] == 1
    assert found["previous"] == metrics["product"]["natural"]["two_stage"]["top1"]
    assert "percentage points stand on corrected test labels" in capsys.readouterr().out
