"""What the explorer does with files that are not there, other windows, and what a browser has kept."""

import json
import shutil

import pytest
from test_explorer_chromium import lines, opened, ready, settle, status

By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait

KEPT = "vlmdiff-stars-try & <see>"


@pytest.fixture
def copy(page, tmp_path):
    """A folder of the explorer that a test may damage."""
    return shutil.copytree(page.parent, tmp_path / "explorer") / "index.html"


def remove(file):
    file.unlink()


def truncate(file):
    file.write_text(file.read_text()[: file.stat().st_size // 2])


def mistake_for_another(file):
    file.write_text(file.with_name("layer_0.js").read_text())


def garble(file):
    text = file.read_text()
    file.write_text(text[:400] + "AAAA" * 20 + text[480:])


@pytest.mark.parametrize("damage", [remove, truncate, mistake_for_another, garble])
def test_features_of_a_layer_that_cannot_be_read_are_left_out_and_told(browser, copy, damage):
    damage(copy.parent / "data" / "layer_1.js")
    opened(browser, copy, "#keep=layer>=0&sort=layer")
    assert status(browser).startswith("100 of 150 features. data/layer_1.js is missing or damaged")
    # The page goes on: filters, and layers behind the one that lacks.
    opened(browser, copy, "#keep=layer != 0&sort=layer")
    assert status(browser).startswith("50 of 150 features.")
    assert all(cells[0].startswith("L2F") for cells in lines(browser))


def test_nothing_is_shown_of_layers_that_are_still_to_come(browser, copy):
    file = copy.parent / "data" / "layer_1.js"
    file.write_text("")
    browser.get("about:blank")
    browser.get(f"file://{copy}#keep=similarity < 0.0001")
    ready(browser)
    assert status(browser).startswith("0 of 150 features.")


@pytest.mark.parametrize("damage", [remove, truncate])
def test_a_feature_without_its_file_is_told_under_its_own_name(browser, copy, damage):
    damage(copy.parent / "details" / "L1F4.js")
    opened(browser, copy, "#open=L0F3")
    browser.execute_script("state.change({ open: 'L1F4' })")
    WebDriverWait(browser, 10).until(
        lambda one: one.find_element(By.CSS_SELECTOR, "#detail h2").text == "L1F4"
    )
    told = browser.find_element(By.ID, "detail").text
    assert "details/L1F4.js is missing or damaged" in told and "Why is it" in told


@pytest.mark.parametrize("name", ["data/about.js", "page/detail.js"])
def test_a_folder_without_its_scripts_says_so(browser, copy, name):
    (copy.parent / name).unlink()
    browser.get(f"file://{copy}")
    assert "missing or damaged" in status(browser)


def test_windows_do_not_lose_each_others_stars(browser, page):
    opened(browser, page, "#open=L0F3")
    browser.execute_script("localStorage.clear(); stars.all.clear()")
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    try:
        opened(browser, page, "#open=L0F5")
        browser.switch_to.window(first)
        browser.execute_script("stars.toggle('L0F3'); stars.note('L0F3', 'an hour of work')")
        browser.switch_to.window(browser.window_handles[1])
        browser.execute_script("stars.toggle('L0F5')")
        assert json.loads(browser.execute_script("return localStorage.getItem(stars.place())")) == [
            ["L0F3", "an hour of work"],
            ["L0F5", ""],
        ]
        browser.switch_to.window(first)
        WebDriverWait(browser, 10).until(lambda one: one.find_element(By.ID, "stars").text == "2")
        browser.switch_to.window(browser.window_handles[1])
    finally:
        browser.close()
        browser.switch_to.window(first)
        browser.execute_script("localStorage.clear()")


@pytest.mark.parametrize(
    ("kept", "stars"),
    [
        ([[1, 2]], 0),
        ([[None, "x"]], 0),
        ([[]], 0),
        ([["L9F9", "gone"], ["L0F3", "ok"]], 1),
        ([["0/3", {}]], 1),
    ],
)
def test_garbage_that_a_browser_has_kept_is_left_out(browser, page, kept, stars):
    opened(browser, page)
    browser.execute_script("localStorage.setItem(arguments[0], arguments[1])", KEPT, json.dumps(kept))
    opened(browser, page, "#stars&open=L0F3")
    assert status(browser) == f"{stars} of 150 features."
    assert browser.find_element(By.ID, "stars").text == str(stars)
    browser.execute_script("localStorage.clear()")


def test_a_browser_that_keeps_nothing_is_told(browser, page):
    opened(browser, page, "#open=L0F3")
    browser.execute_script("Storage.prototype.setItem = () => { throw new Error('full') }")
    browser.execute_script("document.activeElement.blur()")
    browser.find_element(By.TAG_NAME, "body").send_keys("s")
    settle(browser)
    assert "does not keep your stars" in status(browser)
    assert browser.find_element(By.ID, "stars").text == "1"


def test_an_address_of_any_size_is_answered_at_once(browser, page):
    opened(browser, page, "#keep=!" + "+" * 5000 + "a!" + "&keep=nothing" * 5000 + "&sort=nowhere")
    told = status(browser)
    assert told.startswith("150 of 150 features. Found a condition of 5003 characters")
    assert len(told) < 3000


def test_values_that_are_not_wanted_add_up(browser, page):
    opened(browser, page)
    browser.execute_script("state.keepToo('layer != 1'); state.keepToo('Layer != 2')")
    settle(browser)
    assert status(browser) == "50 of 150 features."


def test_features_fall_as_they_rise(browser, page):
    opened(browser, page, "#sort=feature")
    rising = browser.execute_script("return [...main.rows]")
    opened(browser, page, "#sort=-feature")
    assert browser.execute_script("return [...main.rows]") == rising[::-1]


def test_keys_are_for_the_feature_after_one_went_to_it(browser, page):
    opened(browser, page)
    browser.find_element(By.TAG_NAME, "body").send_keys("g")
    browser.switch_to.active_element.send_keys("L0F3", Keys.ENTER)
    settle(browser)
    browser.switch_to.active_element.send_keys("s")
    settle(browser)
    assert browser.find_element(By.ID, "stars").text == "1"
    browser.find_element(By.ID, "condition").click()
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    settle(browser)
    assert not browser.find_element(By.ID, "detail").is_displayed()
    browser.execute_script("localStorage.clear()")


def test_a_drag_is_one_step_of_the_history(browser, page):
    opened(browser, page)
    browser.execute_script("window.changes = 0; addEventListener('hashchange', () => { window.changes++ })")
    browser.execute_script("state.keepToo('similarity >= 0.9', 'similarity <= 0.99', 'visual_energy >= 0.1')")
    settle(browser)
    assert browser.execute_script("return window.changes") == 1
    assert len(browser.find_elements(By.CSS_SELECTOR, "#filters li")) == 4


def test_notes_are_exported_as_text(browser, page):
    opened(browser, page)
    rows = browser.execute_script(
        "stars.all = new Map([['L0F3', '=cmd()'], ['L0F4', 'plain']]); return stars.table()"
    ).splitlines()
    assert rows[1:] == ["0,3,L0F3,'=cmd()", "0,4,L0F4,plain"]
