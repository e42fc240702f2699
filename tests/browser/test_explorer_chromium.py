"""The explorer in real browsers, opened from the disk."""

import base64
import csv
import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
from explorer_files import CONCEPT, NASTY, write_experiment, write_features
from selenium.common.exceptions import JavascriptException

from vlmdiff.explorer.columns import all_columns

axe_core_python = pytest.importorskip("axe_core_python")
By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait

ROWS, LAYERS = 150, 3


def opened(browser, page, address=""):
    """Open the explorer at an address, from nothing, and wait until all layers are there."""
    browser.get("about:blank")
    browser.get(f"file://{page}{address}")
    ready(browser)


def ready(browser):
    WebDriverWait(browser, 30).until(lambda one: one.execute_script("return document.body.dataset.ready"))
    settle(browser)


def settle(browser):
    """Wait until what was asked for is drawn."""
    browser.execute_async_script(
        "const done = arguments[0]; setTimeout(() => requestAnimationFrame(() => done()), 80)"
    )


def lines(browser):
    """Return what the table shows, by rows."""
    return browser.execute_script(
        "const cells = (tr) => [...tr.children].map((td) => td.textContent);"
        "return [...document.querySelectorAll('#body tr')].map(cells)"
    )


def status(browser):
    return browser.find_element(By.ID, "status").text


@pytest.fixture(scope="module")
def columns(tmp_path_factory):
    """The columns of the same experiment, by key, in the order of rows."""
    adapted, concepts, truth = write_features(tmp_path_factory.mktemp("tables"), LAYERS, 50)
    return {
        column.key: values.to_numpy() for column, values in all_columns(adapted, concepts, truth, "test", {})
    }


def test_it_opens_without_an_error_and_without_a_network(browser, page):
    opened(browser, page, "#open=L0F3")
    assert status(browser) == f"{ROWS} of {ROWS} features."
    assert not browser.execute_script("return window.broken")
    assert [line for line in browser.get_log("browser") if line["level"] != "INFO"] == []
    events = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    requests = [event for event in events if event["method"] == "Network.requestWillBeSent"]
    urls = {event["params"]["request"]["url"] for event in requests}
    assert urls and all(url.startswith(("file:", "data:", "about:")) for url in urls), urls


def test_every_number_is_that_of_the_tables(browser, page, columns):
    opened(browser, page)
    found = browser.execute_script(
        "const told = (v) => Number.isFinite(v) ? v : String(v);"
        "const all = [...explorer.columns].map(([key, { values }]) => [key, [...values].map(told)]);"
        "return Object.fromEntries(all)"
    )
    words = browser.execute_script("return explorer.about.words")
    for key, expected in columns.items():
        if key in words:
            assert [words[key][code] for code in found[key]] == list(expected)
            continue
        values = np.array([float(str(one).replace("Infinity", "inf")) for one in found[key]])
        np.testing.assert_allclose(values, expected.astype(float), rtol=2**-15)


def test_a_click_sorts_and_gaps_stay_behind(browser, page, columns):
    opened(browser, page)
    button = browser.find_element(By.CSS_SELECTOR, "[data-key=similarity] button")
    for order in ("descending", "ascending"):
        button.click()
        settle(browser)
        assert button.find_element(By.XPATH, "..").get_attribute("aria-sort") == order
        rows = browser.execute_script("return [...main.rows]")
        values = columns["similarity"][rows].astype(np.float32)
        known = values[np.isfinite(values)]
        assert len(known) and np.isnan(values[len(known) :]).all()
        steps = np.diff(known) if order == "ascending" else -np.diff(known)
        assert (steps >= -1e-4).all()


def test_filters_keep_what_they_say_and_the_address_brings_it_back(browser, page, columns):
    opened(browser, page)
    field = browser.find_element(By.ID, "condition")
    for text in ("visual_energy > 0.5", "!adapted", "truth = left ; or so"):
        field.send_keys(text, Keys.ENTER)
        settle(browser)
    expected = (columns["visual_energy"] > 0.5) & ~columns["adapted"] & (columns["truth"] == "left ; or so")
    assert 0 < expected.sum() < ROWS
    rows = browser.execute_script("return [...main.rows].sort((a, b) => a - b)")
    assert rows == np.flatnonzero(expected).tolist()
    before, address = lines(browser), browser.current_url
    opened(browser, page, "#" + address.split("#")[1])
    assert lines(browser) == before
    browser.find_element(By.CSS_SELECTOR, "[aria-label='Remove !adapted']").click()
    settle(browser)
    assert len(lines(browser)) > len(before)
    browser.back()
    settle(browser)
    assert lines(browser) == before


@pytest.mark.parametrize(
    "text, told",
    [
        ("nothing < 1", "expected a column"),
        ("similarity", "needs a comparison"),
        ("similarity < low", "expected a number"),
        ("adapted = 1", "is a flag"),
        ("truth < left", "compare with ="),
        ("truth = right", "No feature's truth is"),
    ],
)
def test_a_wrong_filter_is_told_and_changes_nothing(browser, page, text, told):
    opened(browser, page)
    browser.find_element(By.ID, "condition").send_keys(text, Keys.ENTER)
    settle(browser)
    assert told in browser.find_element(By.ID, "problem").text
    assert status(browser) == f"{ROWS} of {ROWS} features."


def test_a_feature_is_found_by_its_name_and_shows_its_samples(browser, page):
    opened(browser, page)
    field = browser.find_element(By.NAME, "feature")
    field.send_keys("L0F3", Keys.ENTER)
    WebDriverWait(browser, 10).until(lambda one: one.find_elements(By.CSS_SELECTOR, "#detail .card"))
    detail = browser.find_element(By.ID, "detail")
    assert detail.find_element(By.TAG_NAME, "h2").text == "L0F3"
    titles = [one.text for one in detail.find_elements(By.TAG_NAME, "h3")]
    assert titles[0] == f"Label ({CONCEPT})" and "Nearest features" in titles
    groups = ["Strongest on words", "Half as strong on words", "Silent, of the same groups"]
    assert titles[-4:] == [*groups, f"Where L0H1 looks ({CONCEPT})"]
    assert detail.find_element(By.CSS_SELECTOR, ".label").text == NASTY[0]
    shown = browser.execute_script(
        "return [...document.querySelectorAll('#detail .words')].map((one) => one.textContent)"
    )
    assert len(shown) == 9 and any(NASTY[0] in text for text in shown)
    patch = browser.execute_script(
        "const patches = document.querySelectorAll('#detail .card:first-of-type .picture span');"
        "return [...patches].map((one) => one.title)"
    )
    assert "patch 1: 3.250" in patch and "patch 2: 1.500" in patch
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('#detail img')].map((one) => one.naturalWidth)"
    )
    assert sizes[:3] == [128, 128, 128]
    assert not browser.execute_script("return window.broken")


def test_effects_of_a_feature_are_drawn_and_told_in_numbers(browser, page):
    opened(browser, page, "#open=L0F3")
    WebDriverWait(browser, 10).until(lambda one: one.find_elements(By.CSS_SELECTOR, ".effect svg"))
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('.effect')].map((one) => ["
        "one.querySelector('strong').textContent,"
        " [...one.querySelectorAll('svg circle title')].map((title) => title.textContent),"
        " [...one.querySelectorAll('td')].map((cell) => cell.textContent),"
        " one.querySelectorAll('svg .chance').length])"
    )
    ablated = ["−2 (95 %: −2.500 to −1.500)", "−3", "0.2500 (95 %: 0 to 0.5000)"]
    assert (
        drawn[0][0] == f"Ablated alone, as a feature of {CONCEPT}"
        and drawn[0][2] == ablated
        and drawn[0][3] == 2
    )
    assert drawn[0][1] == [
        f"test: {ablated[0]}",
        f"test, left: {ablated[1]}",
        f"other <b>: {ablated[2]}",
    ]
    assert drawn[1][1] == [
        "test, strength −0.5000: −0.2500 (95 %: −0.5000 to 0)",
        "test, strength 0.5000: 0.1250 (95 %: 0 to 0.2500)",
        "other <b>, strength 0.5000: 0",
    ]
    # The larger loss lies farther to the left, and zero between losses and gains.
    places = browser.execute_script(
        "return [...document.querySelectorAll('.effect')[0].querySelectorAll('circle')]"
        ".map((one) => Number(one.getAttribute('cx')))"
    )
    zero = browser.execute_script(
        "return Number(document.querySelector('.effect svg .zero').getAttribute('x1'))"
    )
    assert places[1] < places[0] < zero < places[2]


def test_a_heads_attention_lies_on_the_picture(browser, page):
    opened(browser, page, "#open=L0F3")
    WebDriverWait(browser, 10).until(lambda one: one.find_elements(By.CSS_SELECTOR, ".looks .picture"))
    shades = browser.execute_script(
        "return [...document.querySelectorAll('.looks .picture span')].map((one) => [one.title,"
        " one.style.getPropertyValue('--shade')])"
    )
    assert [float(shade) for _, shade in shades] == [0.5, 1, 0, 0.25]
    assert shades[0][0] == "patch 1: 13 % of its attention"
    told = browser.find_element(By.CSS_SELECTOR, ".looks p").text
    assert told == "s1, from ‘<b>left’: 44 % on the picture"


def test_one_goes_from_a_feature_to_its_neighbours(browser, page):
    opened(browser, page, "#open=L0F3")
    WebDriverWait(browser, 10).until(lambda one: one.find_elements(By.CSS_SELECTOR, "#detail .go"))
    browser.find_element(By.CSS_SELECTOR, "#detail .go").click()
    settle(browser)
    assert browser.find_element(By.CSS_SELECTOR, "#detail h2").text == "L0F9"


def test_another_comparison_stands_among_the_numbers(browser, page, columns):
    opened(browser, page, "#open=L0F3")
    settle(browser)
    parts = browser.execute_script(
        "document.querySelector('#detail .numbers').closest('details').open = true;"
        "return [...document.querySelectorAll('#detail .numbers tbody')].map((one) => one.innerText)"
    )
    own = next(part for part in parts if part.startswith("stage: half <of> tuning"))
    assert "similarity" in own and "adapted" in own


def test_a_limit_that_a_cell_shows_meets_the_cell(browser, page):
    opened(browser, page)
    kept = browser.execute_script(
        "const { values } = explorer.columns.get('similarity'); values[3] = asKept(0.95);"
        "const keeps = (sign) => explorer.condition(`similarity ${sign} 0.95`).keeps(values[3]);"
        "return ['<=', '=', '<', '>='].map(keeps)"
    )
    assert kept == [True, True, False, True]
    indices = browser.execute_script(
        "explorer.featureOf[0] = 100001;"
        "return explorer.condition('feature = 100001').keeps(explorer.featureOf[0])"
    )
    assert indices is True


def test_a_mistyped_column_is_told_with_the_nearest(browser, page):
    opened(browser, page)
    browser.find_element(By.ID, "condition").send_keys("similarty < 0.9", Keys.ENTER)
    settle(browser)
    told = browser.find_element(By.ID, "problem").text
    assert "Do you mean similarity" in told and len(told) < 200
    browser.find_element(By.CSS_SELECTOR, ".funnel-bar button:last-child").click()
    settle(browser)
    assert browser.find_element(By.ID, "problem").text == ""


def test_a_heading_that_is_shown_names_its_column(browser, page):
    opened(browser, page)
    key = browser.execute_script("return explorer.condition('Firing Rate > 1').text")
    assert key == "visual_rate > 1"
    with pytest.raises(JavascriptException, match="Do you mean"):
        browser.execute_script("return explorer.condition('nothing > 1')")


def test_words_that_are_none_stay_behind(browser, page):
    for order in ("truth", "-truth"):
        opened(browser, page, f"#sort={order}")
        shown = browser.execute_script(
            "const column = explorer.columns.get('truth');"
            "return [...main.rows].map((row) => explorer.shown(column, row) !== '')"
        )
        assert shown == sorted(shown, reverse=True) and not all(shown)


def test_a_note_comes_back_with_its_star(browser, page):
    opened(browser, page, "#open=L0F3")
    settle(browser)
    browser.execute_script(
        "localStorage.clear(); stars.read(); stars.toggle('L0F3'); stars.note('L0F3', 'mine')"
    )
    assert browser.execute_script("stars.toggle('L0F3'); return stars.all.size") == 0
    assert browser.execute_script("stars.toggle('L0F3'); return stars.all.get('L0F3')") == "mine"
    browser.execute_script(
        "const kept = JSON.stringify([...stars.all, ['L9F900', 'gone']]);"
        "localStorage.setItem(stars.place(), kept); stars.read()"
    )
    assert "L9F900" not in browser.execute_script("return stars.table()")
    browser.execute_script("localStorage.clear(); stars.read()")


def test_a_star_that_is_taken_away_leaves_the_starred(browser, page):
    opened(browser, page, "#open=L0F3")
    browser.execute_script("localStorage.clear(); stars.read(); stars.toggle('L0F3')")
    opened(browser, page, "#stars&open=L0F3")
    settle(browser)
    assert status(browser).startswith("1 of")
    browser.find_element(By.TAG_NAME, "body").send_keys("s")
    settle(browser)
    assert status(browser).startswith("0 of")
    browser.execute_script("localStorage.clear(); stars.read()")


def test_help_begins_at_its_beginning(browser, page):
    opened(browser, page)
    browser.find_element(By.TAG_NAME, "body").send_keys("?")
    assert browser.execute_script("return document.getElementById('help').scrollTop") == 0
    assert browser.execute_script("return document.activeElement.id") == "help-title"


def test_columns_stand_under_the_name_of_their_part(browser, page):
    opened(browser, page)
    parts = browser.execute_script(
        "return [...document.querySelectorAll('#parts th')].map((one) => [one.innerText, one.colSpan])"
    )
    assert [name for name, _ in parts] == [
        "in tuning",
        CONCEPT,
        "ground truth",
        "stage: half <of> tuning",
    ]
    assert sum(columns for _, columns in parts) == browser.execute_script("return table.shown.length")


def test_dragging_where_values_crowd_keeps_what_lies_there(browser, page):
    opened(browser, page, "#of=null")
    expected = browser.execute_script(
        "const { values } = explorer.columns.get('null');"
        "for (let row = 0; row < explorer.rows; row++) values[row] = 1 - row / explorer.rows / 1e3;"
        "main.asked = null; main.update();"
        "const { left, width } = charts.histogram.box;"
        "charts.histogram.drag = { x0: left + width / 4, x1: left + width * 3 / 4, y0: 20, y1: 20 };"
        "charts.end('histogram'); return explorer.rows / 2"
    )
    settle(browser)
    kept = browser.execute_script("return main.rows.length")
    assert abs(kept - expected) <= 0.04 * expected


def shortfalls(browser, page, name, changes="") -> list[str]:
    """Return what the table of why says of a feature, by cell; `changes` is a script that runs before."""
    opened(browser, page)
    browser.execute_script(changes + f"; state.change({{ open: '{name}' }})")
    settle(browser)
    return browser.execute_script(
        "return [...document.querySelectorAll('#detail .funnel td.failed')]"
        ".map((one) => one.innerText.replaceAll('\u00a0', ' '))"
    )


def test_who_drops_out_is_told_by_which_numbers(browser, page, columns):
    """Only those that do not reach what is asked."""
    odds, difference, log_p = (columns[f"{CONCEPT}.{key}"] for key in ("odds", "difference", "log_p"))
    others = (difference >= 0.005) & (log_p <= -1.25)
    out = int(np.flatnonzero(~columns[f"{CONCEPT}.contrast"] & others & (odds < 3))[0])
    cells = shortfalls(browser, page, f"L{out // 50}F{out % 50}")
    shown = browser.execute_script(f"return explorer.shown(explorer.columns.get('{CONCEPT}.odds'), {out})")
    told = next(cell for cell in cells if "odds ratio" in cell)
    assert "✗ no" in told and f"odds ratio {shown} (≥ 3)" in told
    assert "difference" not in told and "log₁₀ p" not in told


@pytest.mark.parametrize(
    "values, told",
    [
        ((2.9999, 0.0, -2.0), ["odds ratio 3.000 just below (≥ 3)", "difference 0 (≥ 0.005)"]),
        # What was rounded to below its limit reaches it: the row is in the list of exceptions.
        ((3.0, 0.00499999, -1.0), ["log₁₀ p −1 (≤ −1.25)"]),
        ((np.nan, 0.0, -2.0), ["odds ratio not measured (≥ 3)", "difference 0 (≥ 0.005)"]),
        ((np.nan, np.nan, np.nan), ["fires on none of the compared samples"]),
    ],
)
def test_numbers_at_their_limits_and_those_that_are_none(browser, page, columns, values, told):
    out = int(np.flatnonzero(~columns[f"{CONCEPT}.contrast"].astype(bool))[0])
    keys = ("odds", "difference", "log_p")
    put = "".join(
        f"explorer.columns.get('{CONCEPT}.{key}').values[{out}] = {'NaN' if np.isnan(value) else value};"
        for key, value in zip(keys, values, strict=True)
    )
    step = "explorer.about.concepts[0].steps[1].by"
    put += f"{step}[1].except = {[out] if values[1] == 0.00499999 else []};"
    cells = shortfalls(browser, page, f"L{out // 50}F{out % 50}", put)
    assert ["✗ no", *told] in [cell.split("\n") for cell in cells]


def test_comparing_asks_for_the_other_one(browser, page):
    opened(browser, page, "#open=L0F3&with=L0F3")
    settle(browser)
    told = browser.find_element(By.CSS_SELECTOR, "#detail .heading").text
    assert "choose the feature to compare it with" in told
    assert len(browser.find_elements(By.CSS_SELECTOR, "#detail .funnel tbody tr")) == 1


def test_a_name_that_is_not_there_is_told(browser, page):
    opened(browser, page, "#open=L9F9")
    assert "There is no feature L9F9" in status(browser)
    browser.find_element(By.NAME, "feature").send_keys("7", Keys.ENTER)
    assert "write layer and index" in status(browser)


def test_keys_walk_star_and_close(browser, page):
    opened(browser, page, "#sort=layer")
    browser.execute_script("localStorage.clear(); stars.read()")
    body = browser.find_element(By.TAG_NAME, "body")
    for key, name in (("j", "L0F0"), ("j", "L0F1"), ("k", "L0F0")):
        body.send_keys(key)
        settle(browser)
        assert browser.find_element(By.CSS_SELECTOR, "#detail h2").text == name
    body.send_keys("s", "c", "j")
    settle(browser)
    assert browser.find_element(By.CSS_SELECTOR, "#detail h2").text == "L0F1 next to L0F0"
    assert browser.find_element(By.ID, "stars").text == "1"
    note = browser.execute_script("stars.note('L0F0', arguments[0]); return stars.table()", 'a "b", c\nd')
    assert list(csv.DictReader(io.StringIO(note))) == [
        {"layer": "0", "feature": "0", "name": "L0F0", "note": 'a "b", c\nd'}
    ]
    opened(browser, page, "#stars")
    assert [line[0] for line in lines(browser)] == ["★ L0F0"]
    browser.execute_script("localStorage.clear()")


def test_a_drag_over_the_histogram_keeps_what_lies_there(browser, page, columns):
    from selenium.webdriver.common.action_chains import ActionChains

    opened(browser, page, "#of=text_energy")
    canvas = browser.find_element(By.ID, "histogram")
    browser.execute_script("arguments[0].scrollIntoView()", canvas)
    ActionChains(browser).move_to_element_with_offset(canvas, -80, 0).click_and_hold().move_by_offset(
        120, 5
    ).release().perform()
    settle(browser)
    texts = [one.text for one in browser.find_elements(By.CSS_SELECTOR, "#filters button")][:2]
    low, high = (float(text.split()[2].removesuffix("×")) for text in texts)
    rows = browser.execute_script("return [...main.rows].sort((a, b) => a - b)")
    values = columns["text_energy"]
    assert 0 < len(rows) < ROWS and rows == np.flatnonzero((values >= low) & (values <= high)).tolist()


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(browser, page, width):
    browser.set_window_size(max(width, 500), 900)
    opened(browser, page, "#open=L0F3")
    wide = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    browser.set_window_size(1280, 900)
    assert wide[0] <= wide[1]


def test_the_picture_of_the_page(browser, page, tmp_path):
    """It is not blank: charts are drawn."""
    opened(browser, page)
    for name in ("scatter", "histogram"):
        data = browser.execute_script(f"return document.getElementById('{name}').toDataURL()")
        assert len(base64.b64decode(data.split(",")[1])) > 2000


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("address", ["", "#open=L0F3&with=L1F4&keep=adapted"])
def test_no_serious_hurdle_for_those_who_use_other_tools(browser, page, address, dark):
    """By axe-core: names, roles, contrast, order of headings."""
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    opened(browser, page, address)
    browser.execute_script((Path(axe_core_python.__file__).parent / "axe.min.js").read_text())
    found = browser.execute_async_script("axe.run().then(arguments[0])")
    serious = [one for one in found["violations"] if one["impact"] in ("serious", "critical")]
    assert len(found["passes"]) > 15
    assert [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in serious] == []


@pytest.mark.long
def test_a_million_features_stay_usable(browser, tmp_path):
    """32 layers of 32,768 features: sorting and filtering take no longer than a second or so."""
    page = write_experiment(tmp_path, 32, 32768)
    size = sum(file.stat().st_size for file in page.parent.rglob("*") if file.is_file())
    assert size < 40e6
    began = time.monotonic()
    opened(browser, page)
    print(f"{size / 1e6:.1f} MB, all there after {time.monotonic() - began:.1f} s")
    for change in ("{sort: 'similarity'}", "{keep: [explorer.condition('visual_energy > 1')]}"):
        took = browser.execute_script(
            f"const began = performance.now(); state.change({change}); state.read(); main.update();"
            "return performance.now() - began"
        )
        print(change, f"{took:.0f} ms")
        assert took < 5000
    assert int(status(browser).split(" ")[0].replace(",", "")) > 1e5
