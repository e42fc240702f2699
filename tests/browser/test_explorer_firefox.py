"""The explorer in Firefox: it opens from the disk, unpacks, filters, sorts and shows samples."""

import numpy as np
import pytest
from explorer_files import NASTY, write_experiment, write_features

from vlmdiff.explorer.columns import all_columns

READY = "document.body.dataset.ready"


def opened(firefox, page, address=""):
    firefox.get("about:blank")
    firefox.get(f"file://{page}{address}")
    firefox.wait_for(READY)


def test_it_shows_the_tables_numbers(firefox, page, tmp_path):
    adapted, concepts, truth = write_features(tmp_path, 3, 50)
    opened(firefox, page)
    found = firefox.run("[...explorer.columns].map(([key, { values }]) => [key, [...values].map(String)])")
    found, words = dict(found), firefox.run("explorer.about.words")
    for column, values in all_columns(adapted, concepts, truth, "test", {}):
        told = found[column.key]
        if column.key in words:
            assert [words[column.key][int(code)] for code in told] == list(values)
        else:
            numbers = np.array([float(one.replace("Infinity", "inf")) for one in told])
            np.testing.assert_allclose(numbers, values.to_numpy(float), rtol=2**-15)


def test_an_address_brings_a_view_back(firefox, page):
    opened(firefox, page, "#keep=visual_energy > 0.5&keep=!adapted&sort=-text_energy&open=L0F3")
    firefox.wait_for("document.querySelectorAll('#detail .card').length")
    values = firefox.run("[...main.rows].map((row) => explorer.columns.get('text_energy').values[row])")
    assert 1 < len(values) < 150 and values == sorted(values, reverse=True)
    assert firefox.run(
        "[...main.rows].every((row) => explorer.columns.get('visual_energy').values[row] > 0.5)"
    )
    assert not firefox.run("window.broken ?? false")
    words = firefox.run("[...document.querySelectorAll('#detail .words')].map((one) => one.textContent)")
    assert any(NASTY[0] in text for text in words)
    assert firefox.problems == []


@pytest.mark.long
def test_a_million_features_stay_usable(firefox, tmp_path):
    opened(firefox, write_experiment(tmp_path, 32, 32768))
    took = firefox.run(
        "(() => { const began = performance.now(); state.change({ sort: 'similarity' }); state.read();"
        "main.update(); return performance.now() - began; })()"
    )
    print(f"sorted in {took:.0f} ms")
    assert took < 10000
    # The last row can be reached: browsers end very tall elements.
    firefox.run("(document.getElementById('rows').scrollTop = 1e9, 1)")
    firefox.wait_for(
        "document.querySelector('#body tr:last-child')?.ariaRowIndex === String(explorer.rows + 2)"
    )
