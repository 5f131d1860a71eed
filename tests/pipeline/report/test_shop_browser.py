"""The report of products with texts as keys in a real browser, where one is installed."""

from pathlib import Path

import pandas
import pytest

from tests.pipeline.report.browser import Page, driver, webdriver

__all__ = ["driver"]


@pytest.fixture(scope="module")
def page(driver: webdriver.Chrome, shop: Path) -> Page:
    return Page(driver, shop / "run", 1280, False)


@pytest.fixture(scope="module")
def keys(shop: Path) -> set[str]:
    return set(pandas.read_csv(shop / "train.csv")["sku"])


def test_tables_and_cards_show_keys(page: Page, keys: set[str]) -> None:
    cell = "return document.querySelector('#table-items tbody tr').cells[0].textContent"
    page.view("items")
    page.wait(lambda: page.js(cell))
    assert page.js(cell) in keys
    page.view("review")
    shown = page.js(
        "return [...document.querySelectorAll('.photo dd')].map((dd) => dd.textContent)"
    )
    assert keys & set(shown)


def test_corrections_are_exported_by_key(page: Page, keys: set[str], tmp_path: Path) -> None:
    page.view("review")
    page.js(
        "const product = D.columns['item.product'][0];"
        "setMark(product, {state: 'wrong', old: idOf(0), category: idOf(1)})"
    )
    for name in ("corrections", "judgements"):
        header, *rows = page.export(name, tmp_path)
        assert len(rows) == 1 and rows[0][header.index("product_id")] in keys
    page.js("localStorage.clear(); marks.clear(); showMarks()")
