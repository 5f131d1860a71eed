"""Predictions beside true categories: whose labels count, and whose are counted apart."""

import csv
from pathlib import Path

import pytest

from pipeline.cli import main
from tests.pipeline.score_helpers import predictions
from tests.pipeline.tiny import Tiny, write_dump


@pytest.fixture(scope="module")
def scored(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, int]]:
    """A few products in `few.bson` and what the run answers, in `out`."""
    folder = tmp_path_factory.mktemp("labels")
    write_dump(folder / "few.bson", tiny.data / "test.bson", lambda d: d["_id"] % 7 == 0)
    scoring = ["score", str(folder / "few.bson"), "--run", str(tiny.folder)]
    assert main([*scoring, "--out", str(folder / "out")]) == 0
    table = predictions(folder / "out")
    table = table[~table["blank"]]
    return folder, table.set_index("product_id")["category_id"].to_dict()


def said(tiny: Tiny, folder: Path, labels: list[tuple[int, int]], capsys) -> tuple[int, str]:
    """Exit code and output of the same scoring with these labels."""
    with open(folder / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("_id", "category_id"), *labels])
    words = [str(folder / "few.bson"), "--run", str(tiny.folder), "--out", str(folder / "out")]
    code = main(["score", *words, "--labels", str(folder / "labels.csv")])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_labels_of_unknown_categories_are_counted_apart(
    tiny: Tiny, scored: tuple[Path, dict[int, int]], capsys: pytest.CaptureFixture
) -> None:
    folder, answers = scored
    first, *others = answers.items()
    code, text = said(tiny, folder, [(first[0], 999_999), *others], capsys)
    assert code == 0 and f"top-1 of {len(others)} labelled products" in text
    assert "two-stage 100.0% [" in text
    assert "; 1 more are of categories that the model doesn't know, and don't count" in text


def test_labels_of_another_taxonomy_are_refused(
    tiny: Tiny, scored: tuple[Path, dict[int, int]], capsys: pytest.CaptureFixture
) -> None:
    folder, answers = scored
    code, text = said(tiny, folder, [(product, 999_999) for product in answers], capsys)
    assert code == 2 and f"found {len(answers)} labels of others alone" in text


def test_a_product_with_two_labels_is_refused(
    tiny: Tiny, scored: tuple[Path, dict[int, int]], capsys: pytest.CaptureFixture
) -> None:
    folder, answers = scored
    (product, category), *others = answers.items()
    other = next(c for _, c in others if c != category)
    code, text = said(tiny, folder, [(product, category), *others, (product, other)], capsys)
    assert (
        code == 2 and f"line {len(answers) + 2}: product {product} has category_id {other}" in text
    )
    code, _ = said(tiny, folder, [(product, category), *others, (product, category)], capsys)
    assert code == 0


def test_few_products_that_are_all_right_are_no_certainty(
    tiny: Tiny, scored: tuple[Path, dict[int, int]], capsys: pytest.CaptureFixture
) -> None:
    folder, answers = scored
    code, text = said(tiny, folder, list(answers.items())[:3], capsys)
    assert code == 0 and "top-1 of 3 labelled products" in text
    assert "two-stage 100.0% [43.9, 100.0]" in text
