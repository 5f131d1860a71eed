"""The report's files: what it computes, what it carries, and that names from a dump stay text."""

import base64
import gzip
import hashlib
import html
import io
import json
import re
import shutil
import sqlite3
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import bson
import numpy as np
import pandas
import pytest
from PIL import Image

from catalog.arrays import write_npz
from catalog.artifacts import read_sealed, write_sealed
from catalog.config import CatalogConfig
from catalog.errors import ArtifactError, ConfigError
from catalog.store.ingest import ingest_dump
from catalog.store.reader import Store
from catalog.synthetic.dump import SyntheticSpec, write_categories, write_dump
from pipeline.cli import main
from pipeline.decisions.answers import Answers
from pipeline.decisions.heldout import HeldOutAnswers, path_of, save
from pipeline.evaluation.measures import reliability
from pipeline.report.columns import KINDS, pack, share
from pipeline.report.evaluated_run import EvaluatedRun
from pipeline.report.figures import FIGURES, plot
from pipeline.report.findings import by_training_images, changes, distances
from pipeline.report.gallery import Wanted, make_gallery
from pipeline.report.page import LIMIT, percent, points, write_report
from pipeline.run_folder import RunFolder
from pipeline.scoring.coverage import Cost, costs_of, curve
from tests.pipeline.evaluation_maker import NASTY, make_small_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_run(tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return write_report([RunFolder(run)], run / "report").read_text(encoding="utf-8")


def unpack(block: str) -> tuple[dict, dict[str, np.ndarray]]:
    """What the page's script reads: the JSON values, and the columns by name."""
    data = gzip.decompress(base64.b64decode(block))
    length = int.from_bytes(data[:4], "little")
    header = json.loads(data[4 : 4 + length])
    kinds = {name: kind for kind, name in KINDS.items()}
    columns = {
        name: np.frombuffer(data, "<" + kinds[c["kind"]], c["length"], 4 + length + c["offset"])
        for name, c in header["columns"].items()
    }
    return header["values"], columns


def block(page: str, name: str) -> str:
    return re.search(f'<script id="{name}" type="text/plain">(.*?)</script>', page, re.DOTALL)[1]


def test_pack_round_trip():
    columns = {
        "a": np.array([1, 2, 3], np.uint8),
        "b": np.array([1.5, np.nan], np.float32),
        "c": np.zeros(0, np.float64),
    }
    values, found = unpack(pack({"name": NASTY}, columns).decode())
    assert values == {"name": NASTY}
    for name, column in columns.items():
        np.testing.assert_array_equal(found[name], column)
    np.testing.assert_array_equal(share(np.array([0.5, np.nan, 1.0])), [500, 65_535, 1000])


def test_page_is_one_file(page: str):
    assert len(page.encode()) < LIMIT
    assert not re.search(r"""(src|href)=["']?(?!#|data:)[\w/]""", page)
    addresses = set(re.findall(r"https?:[^\s\"']*", re.sub(r'text/plain">[^<]*<', "", page)))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of a language, not a place


def test_the_policy_lets_only_the_script_run(page: str):
    """Its hash is that of the one script in the page; nothing may be fetched or sent."""
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1])
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy and policy.startswith("default-src 'none';")


def test_a_gain_that_may_be_chance_is_said_to_be(run: Path, page: str):
    change = json.loads((run / "evaluation" / "metrics.json").read_text())["product"]["natural"]
    gain = change["changes"]["two_stage_over_shifted"]["top1"]
    assert ("May be chance: the interval holds zero" in page) == (gain["low"] <= 0 <= gain["high"])


def test_names_are_text(page: str):
    assert NASTY not in page
    assert "alert(" not in page.split("<script>")[0]
    values, _ = unpack(block(page, "data"))
    assert values["names"]["level3"][0] == NASTY


def test_numbers_are_the_evaluations(run: Path, page: str):
    values, columns = unpack(block(page, "data"))
    table = pandas.read_parquet(run / "evaluation" / "per_category.parquet").query(
        "unit == 'product'"
    )
    np.testing.assert_array_equal(columns["product.two_stage.f1"], table["two_stage_f1"])
    np.testing.assert_array_equal(columns["product.support"], table["support"])
    assert (
        values["metrics"]["product"]
        == json.loads((run / "evaluation" / "metrics.json").read_text())["product"]
    )
    assert values["findings"] == read_sealed(run / "evaluation" / "report.json", "")
    pairs = pandas.read_parquet(run / "evaluation" / "confusion.parquet").query(
        "unit == 'product' and system == 'two_stage'"
    )
    for system in ("stage1", "shifted", "two_stage"):
        assert columns[f"pair.{system}"].sum() == columns["product.support"].sum()
        lost = np.rint(table["support"] * (1 - table[f"{system}_recall"]).fillna(0))
        np.testing.assert_array_equal(columns[f"node.{system}_lost"][-len(table) :], lost)
    assert (
        columns["pair.two_stage"].sum() == pairs["count"].sum() == columns["product.support"].sum()
    )


@pytest.mark.parametrize("unit", ["product", "image"])
def test_one_figure_is_one_number_wherever_it_stands(run: Path, page: str, unit: str):
    """metrics.json, the levels, the errors' calibration, the threshold 0: value, interval and n, to
    the last bit."""
    values, _ = unpack(block(page, "data"))
    metrics, found = (
        json.loads((run / "evaluation" / "metrics.json").read_text())[unit],
        values["findings"][unit],
    )
    for system in ("stage1", "shifted", "two_stage"):
        top1 = metrics["natural"][system]["top1"]
        accepted = found[system]["coverage"][0]
        assert found[system]["levels"]["level3"] == top1
        assert {
            "value": accepted["accuracy"],
            **{key: accepted[key] for key in ("low", "high", "n")},
        } == top1
        assert found[system]["reliability"]["ece"] == metrics["ece"][system]
    for name, change in metrics["natural"]["changes"].items():
        assert found["changes"][name]["levels"]["level3"] == change["top1"]
    moved = found["changes"]["two_stage_over_shifted"]
    assert (moved["fixed"], moved["broken"]) == (metrics["fixed"], metrics["broken"])


def test_an_accuracy_of_a_node_is_rounded_once(run: Path, page: str):
    """From its counts, as the page has it (data.js), it prints what per_category.parquet says; 30
    of 38 are 78.9%, not 79.0%."""
    _, columns = unpack(block(page, "data"))
    table = pandas.read_parquet(run / "evaluation" / "per_category.parquet").query(
        "unit == 'product'"
    )
    support = columns["node.support"][-len(table) :].astype(int)
    for system in ("stage1", "shifted", "two_stage"):
        lost = columns[f"node.{system}_lost"][-len(table) :].astype(int)
        for n, wrong, recall in zip(
            support.tolist(), lost.tolist(), table[f"{system}_recall"], strict=True
        ):
            assert not n or percent((n - wrong) / n) == percent(recall)
    nodes = pandas.read_parquet(run / "evaluation" / "hierarchy.parquet").query("unit == 'product'")
    np.testing.assert_array_equal(columns["node.two_stage_low"], nodes["two_stage_low"])


def test_figures_are_printed_as_scripts_print_them():
    """As toFixed(1) of a share times 100: halves upwards, in Python as in JavaScript; nothing is a
    dash."""
    shares = [30 / 38, 0.0625, 0.00045, 1.0, None]
    assert [percent(share) for share in shares] == ["78.9%", "6.3%", "0.0%", "100.0%", "–"]
    assert [points(change) for change in (0.0625, -0.0625, 0.0, None)] == [
        "+6.3",
        "−6.3",
        "±0.0",
        "–",
    ]


def test_the_page_says_how_far_test_stands_apart(run: Path, page: str):
    values, _ = unpack(block(page, "data"))
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    assert values["apart"] == {
        "without_photo": metrics["without_photo"],
        "near_twins": metrics["near_twins"],
    }
    linked, counts = (values["metrics"]["product"][key] for key in ("linked", "natural"))
    assert (
        sum(linked[key]["two_stage"]["n"] for key in ("with", "without")) == counts["counts"]["n"]
    )


def test_the_threshold_is_the_terminals(run: Path, tmp_path: Path):
    """The page carries what `score --min-confidence` prints of held-out products, and nothing of
    another stage 2's."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    rng = np.random.default_rng(0)
    answers = Answers.of(np.log(rng.dirichlet(np.ones(4), 90).astype(np.float32)))
    even, classes = np.full(4, 0.25), rng.integers(0, 4, 90)
    z, far = np.zeros((90, 1)), np.full(90, np.nan)
    held = HeldOutAnswers(np.arange(90), classes, answers, z, far, far, even, even)
    save(copy / "stage2", held)
    for expected in ([asdict(cost) for cost in costs_of(held)], None):
        values, _ = unpack(
            block(
                write_report([RunFolder(copy)], tmp_path / "out").read_text(encoding="utf-8"),
                "data",
            )
        )
        assert values["findings"]["coverage_val_b"] == expected
        write_npz(
            path_of(copy / "stage2"),
            **dict(np.load(path_of(copy / "stage2"))) | {"stage2": np.array("another")},
        )


def test_times_are_the_steps(page: str):
    values, _ = unpack(block(page, "data"))
    assert values["findings"]["training"]["seconds"] == {
        "stage1": 22_400,
        "stage2": 3_100,
        "evaluate": 840.5,
    }


def test_headline_is_on_the_page(run: Path, page: str):
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())["product"]["natural"]
    figure = re.search(r'data-metric="top1">(.*?)</div>', page, re.DOTALL)[1]
    for system in ("stage1", "shifted", "two_stage"):
        for bound in ("value", "low", "high"):
            assert percent(metrics[system]["top1"][bound]) in figure


def test_the_page_says_which_categories_macro_f1_is_over(run: Path, page: str):
    """The rare ones, which are left out."""
    counts = json.loads((run / "evaluation" / "metrics.json").read_text())["product"]["balanced"][
        "counts"
    ]
    figure = re.search(r'data-metric="macro_f1">(.*?)</div>', page, re.DOTALL)[1]
    assert (
        f"over the {counts['categories']} categories with at least "
        f"{counts['min_support']} independent test products" in figure
    )


def test_photos_belong_to_the_run(run: Path, page: str):
    _, index = unpack(block(page, "photo-index"))
    photos = base64.b64decode(block(page, "photos"))
    assert len(index["product"]) > 20
    assert index["starts"][-1] == len(index["offsets"]) - 1 and index["offsets"][-1] == len(photos)
    assert all(photos[start : start + 4] == b"RIFF" for start in index["offsets"][:-1])
    known = set(
        pandas.read_sql(
            "SELECT product_id FROM products", EvaluatedRun(RunFolder(run)).store.connection
        )["product_id"]
    )
    assert set(index["product"].astype(int)) <= known


def test_a_run_without_extras(run: Path, tmp_path: Path):
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copytree(run / "evaluation", bare / "evaluation")
    shutil.copy(run / "taxonomy.json", bare)
    page = write_report([RunFolder(bare), RunFolder(run)], tmp_path / "out").read_text(
        encoding="utf-8"
    )
    values, columns = unpack(block(page, "data"))
    assert (
        not values["has_stage2"]
        and not values["has_store"]
        and values["findings"]["training"]["epochs"] == []
    )
    np.testing.assert_array_equal(columns["run1.recall"], columns["product.two_stage.recall"])


def test_runs_are_compared_like_with_like(run: Path, tmp_path: Path):
    """Another store's run with images only, a quarter of which have another category and a quarter
    are others."""
    copy = tmp_path / "copy"
    shutil.copytree(run / "evaluation", copy / "evaluation")
    shutil.copy(run / "taxonomy.json", copy)
    metrics = read_sealed(copy / "evaluation" / "metrics.json", "")
    del metrics["product"]
    write_sealed(
        copy / "evaluation" / "metrics.json",
        metrics | {"made_from": {"views": {"stage1": {"store": "another"}}}},
    )
    items = (
        pandas.read_parquet(copy / "evaluation" / "items.parquet")
        .query("unit == 'image'")
        .reset_index(drop=True)
    )
    items.loc[items.index % 4 == 0, "class_index"] += 1
    items["class_index"] %= 50
    items.loc[items.index % 4 == 1, "item_id"] += 1_000_000_000_000
    items.to_parquet(copy / "evaluation" / "items.parquet")
    values, columns = unpack(
        block(
            write_report([RunFolder(run), RunFolder(copy)], tmp_path / "out").read_text(
                encoding="utf-8"
            ),
            "data",
        )
    )
    first, second = values["runs"]
    assert values["unit"] == "product" and values["compared"] == "image"
    assert first["metrics"] == values["metrics"]["image"] == second["metrics"]
    np.testing.assert_array_equal(columns["run1.recall"], columns["image.two_stage.recall"])
    assert not first["other_store"] and first["common"] == first["evaluated"] == len(items)
    assert second["other_store"] and second["common"] == (items.index % 4 > 1).sum()


def test_an_evaluation_of_another_stage_2_is_refused(run: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    with open(copy / "stage2" / "manifest.json", "a") as file:
        file.write(" ")
    with pytest.raises(
        ArtifactError, match=r"metrics\.json: made from something else: stage2 .*step evaluate"
    ):
        write_report([RunFolder(copy)], tmp_path / "out")


def test_an_evaluation_of_another_store_is_refused(run: Path, tmp_path: Path):
    """Corrected since: the store's counts would stand beside accuracies over other labels."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    with closing(sqlite3.connect(copy / "store.sqlite")) as connection, connection:
        connection.execute("UPDATE meta SET value = '0123456789abcdef' WHERE key = 'content'")
    expected = (
        r"made from something else: views\.stage1\.store was "
        r"'.*', is now '0123456789ab' .*step evaluate"
    )
    with pytest.raises(ArtifactError, match=expected):
        write_report([RunFolder(copy)], tmp_path / "out")
    with pytest.raises(ArtifactError, match=expected):
        write_report([RunFolder(run), RunFolder(copy)], tmp_path / "out")


def test_a_missing_column_is_named(run: Path, tmp_path: Path):
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    path = broken / "evaluation" / "items.parquet"
    pandas.read_parquet(path).drop(columns="two_stage_true_confidence").to_parquet(path)
    with pytest.raises(
        ArtifactError,
        match=r"items\.parquet: column two_stage_true_confidence is missing.*step evaluate",
    ):
        write_report([RunFolder(broken)], tmp_path / "out")
    with pytest.raises(ArtifactError, match=r"metrics\.json: no such file"):
        write_report([RunFolder(tmp_path)], tmp_path / "out")


@pytest.mark.parametrize("name", FIGURES)
def test_figures(run: Path, page: str, name: str, tmp_path: Path):
    text = plot(name, RunFolder(run), tmp_path / f"{name}.svg").read_text(encoding="utf-8")
    assert text.startswith("<?xml") and "<script" not in text and len(text) > 5000
    assert (run / "report" / "figures" / f"{name}.svg").exists()


def test_unknown_figures_are_refused(run: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="per-category"):
        plot("pie", RunFolder(run), tmp_path / "pie.svg")
    with pytest.raises(ConfigError, match=r"\.svg, \.png or \.pdf"):
        plot("coverage", RunFolder(run), tmp_path / "coverage.gif")


def test_a_figure_is_about_the_evaluation_that_is_there(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    path = copy / "evaluation" / "report.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | {"evaluation": "of another day", "product": {}}))
    assert main(["plot", "coverage", str(copy), "--out", str(tmp_path / "coverage.png")]) == 0
    assert json.loads(path.read_text()) == stored
    assert (tmp_path / "coverage.png").read_bytes().startswith(b"\x89PNG")
    assert main(["plot", "coverage"]) == 2
    assert "expected shelfsort plot FIGURE DIR" in capsys.readouterr().err


def test_stage2_is_credited_over_the_shifted_stage1():
    """Item 0 is the shift's merit, item 1 is stage 2's, item 2 is what stage 2 breaks; all but item
    2's stay in the family."""
    table = pandas.DataFrame(
        {
            "class_index": [0, 0, 0, 0],
            "stage1_class": [1, 1, 0, 0],
            "shifted_class": [0, 1, 0, 0],
            "two_stage_class": [0, 0, 2, 0],
            "weight": np.ones(4),
            "group": np.arange(4),
        }
    )
    found = changes(table, np.array([[0, 0], [0, 0], [0, 1]]))
    assert {name: (c["fixed"], c["broken"]) for name, c in found.items()} == {
        "shifted_over_stage1": (1, 0),
        "two_stage_over_shifted": (1, 1),
        "two_stage_over_stage1": (2, 1),
    }
    levels = found["two_stage_over_shifted"]["levels"]
    assert [levels[k]["value"] for k in ("level1", "level2", "level3")] == [0.0, -0.25, 0.0]
    assert levels["level2"]["low"] < -0.25


def test_a_node_holds_what_lies_under_it(run: Path, page: str):
    nodes = pandas.read_parquet(run / "evaluation" / "hierarchy.parquet").query("unit == 'product'")
    counts = [
        "categories",
        "support",
        "fixed",
        "broken",
        "stage1_lost",
        "shifted_lost",
        "two_stage_lost",
    ]
    below = nodes[nodes["level"] == 3]
    assert nodes.groupby("level")[counts].sum().nunique().eq(1).all()
    for _, family in nodes[nodes["level"] == 2].iterrows():
        members = below[
            (below["level1"] == family["level1"]) & (below["level2"] == family["level2"])
        ]
        assert members[counts].sum().tolist() == family[counts].tolist()
    assert (nodes["shifted_lost"] - nodes["two_stage_lost"]).equals(
        nodes["fixed"] - nodes["broken"]
    )


def test_of_many_items_the_page_lists_the_telling_ones(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of every category first the wrong and the least certain; what is counted stays whole."""
    items = pandas.read_parquet(run / "evaluation" / "items.parquet").query("unit == 'product'")
    right = items["two_stage_class"] == items["class_index"]
    classes, sure = items.loc[~right, "class_index"], items.loc[right, "class_index"]
    monkeypatch.setattr(
        "pipeline.report.page.ITEMS",
        int(classes.value_counts().clip(upper=3).sum()) + sure.nunique(),
    )
    page = write_report([RunFolder(run)], tmp_path).read_text(encoding="utf-8")
    _, columns = unpack(block(page, "data"))
    listed = items.set_index("product_id").loc[columns["item.product"].astype(np.int64)]
    assert len(listed) < len(items) and (np.diff(columns["item.true"].astype(int)) >= 0).all()
    assert set(
        listed.loc[listed["two_stage_class"] != listed["class_index"], "class_index"]
    ) == set(classes)
    assert set(
        listed.loc[listed["two_stage_class"] == listed["class_index"], "class_index"]
    ) == set(sure)
    assert columns["product.support"].sum() == len(items)


def test_thumbnails_are_as_large_as_the_budget_allows(tmp_path: Path):
    spec = SyntheticSpec(categories=4, products=60, side=180, duplicates=0.0, blanks=0.0)
    write_dump(tmp_path / "dump.bson", spec)
    write_categories(tmp_path / "names.csv", spec)
    dump, names = tmp_path / "dump.bson", tmp_path / "names.csv"
    ingest_dump(
        tmp_path / "store.sqlite", [dump], names, CatalogConfig(), index_folder=tmp_path, jobs=1
    )
    store = Store(tmp_path / "store.sqlite")
    items = pandas.DataFrame({"product_id": np.unique(store.images("train").product_id)})
    items = items.assign(
        class_index=0, two_stage_class=1, two_stage_confidence=0.9, two_stage_true_confidence=0.1
    )
    none = pandas.DataFrame({"kind": [], "product_id": [], "shown": [], "other": []})
    wanted = Wanted(items, none, none, none)
    sides, shown = [], []
    for budget in (10_000_000, 40_000, 20_000):
        gallery = make_gallery(store, wanted, budget)
        assert len(gallery.data) <= budget
        sides.append(max(Image.open(io.BytesIO(gallery.data[: gallery.offsets[1]])).size))
        shown.append(len(gallery.product_id))
    assert sides[0] == 180 and sides[0] > sides[1] >= sides[2] == 72
    assert shown[0] == len(items) > shown[2] > 0


def test_pictures_that_are_none_are_left_out_of_the_gallery(tmp_path: Path):
    spec = SyntheticSpec(categories=2, products=30, side=32, duplicates=0.0, blanks=0.0)
    write_dump(tmp_path / "whole.bson", spec)
    write_categories(tmp_path / "names.csv", spec)
    with open(tmp_path / "whole.bson", "rb") as file, open(tmp_path / "dump.bson", "wb") as out:
        for document in bson.decode_file_iter(file):
            document["imgs"].append({"picture": b"no picture"})
            out.write(bson.encode(document))
    config = CatalogConfig(drop_undecodable=False)
    ingest_dump(
        tmp_path / "store.sqlite",
        [tmp_path / "dump.bson"],
        tmp_path / "names.csv",
        config,
        index_folder=tmp_path,
        jobs=1,
    )
    store = Store(tmp_path / "store.sqlite")
    items = pandas.DataFrame({"product_id": np.unique(store.images("train").product_id)})
    items = items.assign(
        class_index=0, two_stage_class=1, two_stage_confidence=0.9, two_stage_true_confidence=0.1
    )
    none = pandas.DataFrame({"kind": [], "product_id": [], "shown": [], "other": []})
    gallery = make_gallery(store, Wanted(items, none, none, none), 1_000_000)
    assert len(gallery.product_id) == len(items)


def test_coverage_counts_by_hand():
    rows = curve(
        np.array([0.2, 0.5, 0.9]),
        np.array([False, True, True]),
        np.array([1.0, 1.0, 2.0]),
        np.arange(3),
    )
    found = [(row.threshold, row.coverage, row.accuracy, row.n) for row in (rows[0], rows[50])]
    assert found == [(0, 1, 0.75, 3), (0.5, 0.75, 1, 2)]
    assert rows[50].low < 0.9 and rows[50].high == 1
    assert rows[95] == Cost(0.95, 0.0, None, None, None, 0)


def test_reliability_by_hand():
    found = reliability(
        np.array([0.91, 0.93, 0.12, 1.0]), np.array([True, False, False, True]), np.ones(4)
    )
    # Bins 18 (0.90-0.95): 1 right against 1.84; 2 (0.10-0.15): 0 against 0.12; 19: 1 against 1.
    assert found["ece"] == pytest.approx((0.84 + 0.12) / 4)
    assert [(b["n"], b["right"]) for b in found["bins"] if b["n"]] == [(1, 0), (2, 1), (1, 1)]


def test_distances_double():
    rows = distances(np.array([-1, 1, 2, 3, -5]))
    assert [(row["low"], row["high"], row["n"]) for row in rows] == [
        (-7, -4, 1),
        (-3, -2, 0),
        (-1, -1, 1),
        (1, 1, 1),
        (2, 3, 2),
        (4, 7, 0),
    ]
    assert distances(np.zeros(0, int)) == []


def test_accuracy_by_training_images_by_hand():
    """Classes trained on 1, 2, 3 and 4 images: bins 0-1, 2-2, 3-4."""
    items = pandas.DataFrame(
        {
            "class_index": [0, 0, 1, 2, 3, 3],
            "two_stage_class": [0, 1, 1, 0, 3, 3],
            "weight": np.ones(6),
            "group": np.arange(6),
        }
    )
    rows = by_training_images(items, np.array([1, 2, 3, 4]))
    assert [(row["low"], row["high"], row["categories"]) for row in rows] == [
        (0, 1, 1),
        (2, 2, 1),
        (3, 4, 2),
    ]
    assert [row["accuracy"]["value"] for row in rows] == pytest.approx([0.5, 1, 2 / 3])
    assert [row["accuracy"]["n"] for row in rows] == [2, 1, 3]
