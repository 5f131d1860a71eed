"""The report of a small run in a real browser, where one is installed: every view draws, nothing is
complained of, nothing leaves the file. test_browser.py tries everything else."""

import pytest

from pipeline.report.page import write_report
from pipeline.run_folder import RunFolder
from tests.pipeline.evaluation_maker import make_small_run
from tests.pipeline.report.browser import Page, complaints_and_addresses, driver, webdriver

__all__ = ["driver"]
VIEWS = [
    "categories",
    "hierarchy",
    "confusions",
    "confidence",
    "slices",
    "review",
    "items",
    "training",
    "overview",
]


@pytest.fixture(scope="module")
def page(driver: webdriver.Chrome, tmp_path_factory: pytest.TempPathFactory) -> Page:
    run = make_small_run(tmp_path_factory.mktemp("runs") / "small")
    write_report([RunFolder(run)], run / "report")
    return Page(driver, run, 1280, False)


def test_every_view_draws_and_nothing_leaves(page: Page):
    found = "return document.querySelectorAll(`#view-${arguments[0]} :is(table, svg)`).length"
    for view in VIEWS:
        page.view(view)
        page.wait(lambda view=view: page.js(found, view))
        assert page.js("return document.documentElement.scrollWidth <= innerWidth"), view
    assert not page.find("#problem").is_displayed()
    complaints, asked = complaints_and_addresses(page.driver)
    assert not complaints
    assert asked and all(url.startswith(("file:", "blob:", "data:")) for url in asked)
