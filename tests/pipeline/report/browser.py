"""A headless Chromium for tests of the report, and a report opened in it. Importing this module
skips where the browser, its driver or the package selenium is missing, and says what to install."""

import csv
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("selenium", reason="selenium is not installed: pip install selenium")
CHROMIUM, DRIVER = (
    shutil.which("chromium") or shutil.which("google-chrome"),
    shutil.which("chromedriver"),
)
if not CHROMIUM or not DRIVER:
    pytest.skip(
        "chromium or chromedriver is missing: apt-get install chromium chromium-driver",
        allow_module_level=True,
    )

from selenium import webdriver  # noqa: E402 (only where the skips above let it)
from selenium.webdriver.chrome.service import Service  # noqa: E402

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "about:blank",
)
SCREENSHOTS = Path(__file__).parents[3] / "build" / "screenshots"


class Page:
    """A report in a browser window."""

    def __init__(self, driver: webdriver.Chrome, run: Path, width: int, dark: bool) -> None:
        self.driver, self.run, self.name = (
            driver,
            run,
            f"{run.name}-{width}{'-dark' if dark else ''}",
        )
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        self.opening = min(self._open() for _ in range(3))  # caches are cold at first

    def _open(self) -> float:
        """Opens the report; the processor time that it took, in seconds."""
        self.driver.get("about:blank")
        for log in ("browser", "performance"):
            self.driver.get_log(log)
        self.driver.get((self.run / "report" / "index.html").as_uri())
        self.wait(lambda: self.js("return document.documentElement.dataset.firstChart"))
        metrics = self.driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        return next(metric["value"] for metric in metrics if metric["name"] == "ThreadTime")

    def js(self, script: str, *arguments: object) -> object:
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> webdriver.remote.webelement.WebElement:
        return self.driver.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        return self.js("return document.querySelector(arguments[0]).textContent", selector)

    def wait(self, condition: Callable[[], object], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "the page did not get there"
            time.sleep(0.05)

    def view(self, name: str) -> None:
        self.js("location.hash = arguments[0]", name)
        self.wait(
            lambda: self.js(
                "return !document.getElementById('view-' + arguments[0]).hidden", name.split("/")[0]
            )
        )

    def shot(self, name: str) -> None:
        time.sleep(0.3)
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(SCREENSHOTS / f"{self.name}-{name}.png"))

    def export(self, name: str, folder: Path) -> list[list[str]]:
        """The rows of the file that a button of the page saves, into `folder`."""
        download_to(self.driver, folder)
        self.js(f"document.getElementById('export-{name}').click()")
        self.wait((folder / f"{name}.csv").exists)
        with (folder / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.reader(file))

    def sort(self, table: str, number: int) -> None:
        self.js(
            "document.querySelectorAll(`#table-${arguments[0]} th button`)[arguments[1]].click()",
            table,
            number,
        )

    def column(self, table: str, number: int) -> list[str]:
        return self.js(
            "const rows = [...document.querySelectorAll(`#table-${arguments[0]} tbody tr`)];"
            "return rows.map((row) => row.children[arguments[1]].textContent)",
            table,
            number,
        )


def download_to(driver: webdriver.Chrome, folder: Path) -> None:
    behaviour = {"behavior": "allow", "downloadPath": str(folder)}
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    download_to(driver, tmp_path_factory.mktemp("downloads"))
    yield driver
    driver.quit()


def complaints_and_addresses(driver: webdriver.Chrome) -> tuple[list[str], set[str]]:
    """What the browser complained of, and the addresses it asked for, since they were last read."""
    complaints = [
        entry["message"]
        for entry in driver.get_log("browser")
        if entry["level"] in ("SEVERE", "WARNING")
    ]
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return complaints, {
        e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"
    }
