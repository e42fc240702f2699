"""Real browsers, without a screen and without a network; what is missing is said where they cannot run."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


def need(*programs: str) -> None:
    """Skip, and say what is missing and how to get it."""
    if importlib.util.find_spec("selenium") is None:
        pytest.skip("this environment has no Selenium: run `make .venv/peers`")
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} not found: `make browser-packages` installs Debian's browsers")


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Chromium, with a window as wide as a laptop's."""
    need("chromium", "chromedriver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_window_size(1280, 900)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def firefox(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """Firefox, by its own protocol: Debian has no geckodriver."""
    need("firefox-esr")
    from firefox import Firefox

    with Firefox(tmp_path_factory.mktemp("firefox")) as started:
        yield started


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small explorer with words that could break a page."""
    from explorer_files import write_experiment

    return write_experiment(tmp_path_factory.mktemp("explorer"))
