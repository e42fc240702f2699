"""The first page of the report: the summary, with links that lead from where the report lies."""

from xml.etree import ElementTree

import pytest
from docutils.core import publish_parts

from vlmdiff.summary.front import front_page, summary_page

SUMMARY = """# What was found

Look at the [explorer](explorer/index.html), the [weak ones](#weak-results) or [elsewhere](https://example.org).

| concept | features |
|---|---|
| a\\|b | 12 |

- one
- two \\<b\\>
"""


def front(folder, text, place="builtin"):
    file = folder / "summary.md"
    file.write_text(text)
    return front_page(file, place)


def shown(page):
    """Return what docutils makes of a template's directive with a page."""
    parts = publish_parts(f".. raw:: html\n\n   {page}\n\nBehind it.\n", writer="html")
    return ElementTree.fromstring(parts["html_body"])


def test_docutils_takes_the_whole_page(tmp_path):
    tree = shown(front(tmp_path, SUMMARY))
    assert [one.text for one in tree.iter("h1")] == ["What was found"]
    assert [one.text for one in tree.iter("td")] == ["a|b", "12"]
    assert [one.text for one in tree.iter("li")] == ["one", "two <b>"]
    assert [one.text for one in tree.findall("p")][-1] == "Behind it."


def test_relative_links_lead_to_the_summarys_folder(tmp_path):
    tree = shown(front(tmp_path, SUMMARY, "some/where"))
    links = [one.get("href") for one in tree.iter("a")]
    assert links == ["some/where/explorer/index.html", "#weak-results", "https://example.org"]


def test_folders_and_pictures_with_any_name_are_found(tmp_path):
    tree = shown(front(tmp_path, "[a](explorer/index.html) ![b](figures/b.png)\n", "run #1/50%25?"))
    assert [one.get("href") for one in tree.iter("a")] == ["run%20%231/50%2525%3F/explorer/index.html"]
    assert [one.get("src") for one in tree.iter("img")] == ["run%20%231/50%2525%3F/figures/b.png"]


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "<img src=x onerror=y>", "[x](javascript:y)"])
def test_text_is_never_markup(tmp_path, text):
    tree = shown(front(tmp_path, f"# Title\n\n{text}\n"))
    assert not {"script", "img", "a"} & {one.tag for one in tree.iter()}
    assert text in "".join(tree.itertext())


def test_blank_lines_in_code_end_nothing(tmp_path):
    tree = shown(front(tmp_path, "```\nfirst\n\nlast\n```\n\nafter\n"))
    assert "first\n\n" in tree.find(".//code").text and "after" in "".join(tree.itertext())


def test_without_a_summary_there_is_no_page(tmp_path):
    assert front_page(tmp_path / "summary.md", "x") == ""


def test_the_page_of_its_own_leads_to_where_the_summary_lies():
    page = summary_page(SUMMARY, "a <b> & c")
    assert "<title>a &lt;b&gt; &amp; c</title>" in page and "two &lt;b&gt;" in page
    assert 'href="./explorer/index.html"' in page and 'href="#weak-results"' in page
    assert page.count("<td>") == 2 and page.count("<h1>") == 1
