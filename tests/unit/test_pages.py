"""Pages are complete, their links lead somewhere, and their sentences can be read at once."""

import inspect
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from pages import PAGES, ROOT, anchors, links, prose_lines, sentences, words
from rule_texts import FILES, rules
from snakemake import cli, exceptions
from snakemake.common import configfile
from snakemake.deployment import conda

DOCS = ROOT / "docs"
INDEX = DOCS / "README.md"
OUTSIDE = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PROSE = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "README.md"]
MOST_WORDS = 35
STOPGAPS = re.compile(r"\b(beside|anew|mend(s|ed|ing)?|dear(er|est)?|dearly)\b", re.IGNORECASE)
USED = re.compile(r"^use rule (\w+) from .* with:", re.MULTILINE)
RULES = {*rules(), *(name for file in FILES for name in USED.findall(file.read_text()))}


def name_of(page):
    return str(page.relative_to(ROOT))


def of(pages):
    return pytest.mark.parametrize("page", pages, ids=name_of)


@cache
def anchors_of(page):
    return anchors(page.read_text())


def broken(page):
    """Return the links of a page that lead nowhere, or from the built site out of it."""
    wrong = []
    for link in links(page.read_text()):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if re.match(r"\w+:", link):
            continue
        inside = DOCS in target.parents or DOCS not in page.parents
        if not (target.exists() and inside) or (anchor and anchor not in anchors_of(target)):
            wrong.append(link)
    return wrong


@of([*PAGES, *OUTSIDE])
def test_links_lead_somewhere(page):
    assert broken(page) == []


def test_a_broken_link_is_noticed(tmp_path):
    page = tmp_path / "a.md"
    page.write_text(
        "# One `two`\n[x](#one-two), [y](#three), [z](b.md)\n```\n[in code](c.md)\n```\n`[q](d.md)`\n"
    )
    assert broken(page) == ["#three", "b.md"]


@of(PROSE)
def test_sentences_are_short(page):
    long = [sentence for sentence in sentences(page.read_text()) if len(words(sentence)) > MOST_WORDS]
    assert long == [], f"at most {MOST_WORDS} words a sentence"


def test_sentences_are_told_apart():
    text = "# No heading counts\n\nOne two, e.g. three. Four `five six. Seven` [eight nine](x.md)!\n\n"
    text += "- ten\n  eleven\n- twelve\n\n| a | table |\n|---|---|\n\n```\nno code\n```\n"
    counts = [len(words(sentence)) for sentence in sentences(text)]
    assert counts == [4, 4, 2, 1]


@of(PROSE)
def test_words_are_the_usual_ones(page):
    plain = re.sub(r"`[^`]*`", "", "\n".join(prose_lines(page.read_text())))
    assert [match[0] for match in STOPGAPS.finditer(plain)] == []


@of([page for page in PAGES if page.name != "configuration.md"])
def test_headings_of_a_page_differ(page):
    assert len(set(anchors_of(page))) == len(anchors_of(page))


def leaves(nav):
    """Yield the pages of a site's menu."""
    for entry in nav.values() if isinstance(nav, dict) else nav:
        yield from [entry] if isinstance(entry, str) else leaves(entry)


def test_every_page_is_in_the_index_and_in_the_menu():
    pages = {page for page in PAGES if page != INDEX}
    assert {(DOCS / link).resolve() for link in links(INDEX.read_text())} == pages
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    menu = list(leaves(site["nav"]))
    assert {DOCS / page for page in menu} == {*pages, INDEX}
    assert len(set(menu)) == len(menu)
    assert [next(iter(part)) for part in site["nav"]][1:] == [part.capitalize() for part in parts()]


def parts():
    """Return the parts of the pages, as the index has them."""
    return [anchor for anchor in anchors_of(INDEX) if anchor != "documentation"]


def test_the_folders_are_the_parts_of_the_index():
    assert {page.parent.name for page in PAGES if page != INDEX} == set(parts())
    section = ""
    for line in INDEX.read_text().splitlines():
        section = line[3:].lower() if line.startswith("## ") else section
        assert all(link.startswith(f"{section}/") for link in links(line)), line


def test_every_rule_is_in_the_index():
    text = INDEX.read_text()
    named = set(re.findall(r"`(\w+)`", text)) | {Path(link).stem for link in links(text)}
    named |= {word for match in re.findall(r"\[([\w, ]+)\]", text) for word in match.split(", ")}
    missing = {rule for rule in RULES - named if not rule.startswith("plot_")}
    assert missing <= {"all", "descriptions", "world_models", "summarise_comparisons", "write_config"}


@of(PAGES)
def test_rules_of_figures_exist(page):
    assert set(re.findall(r"`(plot_[a-z_]+)`", page.read_text())) <= RULES


def test_pages_that_code_names_exist():
    files = [ROOT / "Makefile", ROOT / "Snakefile", ROOT / "pyproject.toml"]
    for folder in ("rules", "workflow_scripts", "config", "envs", "profiles", "tests"):
        files += [
            file for file in (ROOT / folder).rglob("*") if file.suffix in {".py", ".smk", ".yaml", ".txt"}
        ]
    for file in files:
        for path, anchor in re.findall(r"\b(docs/[\w/]+\.md)(?:#([\w-]+))?", file.read_text()):
            assert (ROOT / path).exists(), f"{file}: {path}"
            assert not anchor or anchor in anchors_of(ROOT / path), f"{file}: {path}#{anchor}"


@cache
def code_text():
    """Return what the code and Snakemake say, with the parts of a text that spans lines put together."""
    files = [*(ROOT / "workflow_scripts").rglob("*.py"), *(ROOT / "rules").rglob("*.smk")]
    texts = [file.read_text() for file in files] + [
        inspect.getsource(module) for module in (exceptions, conda, cli, configfile)
    ]
    return re.sub(r"\"\s*\n\s*(?:else )?[fr]?\"", "", "\n".join(texts))


def messages():
    """Return the messages of the page on troubleshooting."""
    lines = (DOCS / "run" / "troubleshooting.md").read_text().splitlines()
    cells = [line.strip("|").split(" | ")[0].strip() for line in lines if line.startswith("| `")]
    return [cell.strip("`").strip() for cell in cells if cell.endswith("`")]


@pytest.mark.parametrize("message", messages())
def test_messages_of_troubleshooting_are_real(message):
    parts = [part.strip(" '\"") for part in message.split("…")]
    assert max(map(len, parts)) >= 8
    assert all(part in code_text() for part in parts)


def test_troubleshooting_has_many_messages():
    assert len(messages()) > 30


def test_the_picture_of_the_architecture_names_every_rule_and_room():
    picture = (DOCS / "develop" / "architecture.svg").read_text()
    found = set(re.findall(r"[a-z]\w+", picture))
    targets = {
        "all",
        "chosen",
        "controls",
        "descriptions",
        "scoreboard",
        "sensitivity",
        "sources",
        "stages",
        "world_models",
    }
    assert {rule for rule in RULES - targets if not rule.startswith("plot_")} <= found
    library = ROOT / "workflow_scripts" / "vlmdiff"
    rooms = {path.name for path in library.iterdir() if (path / "__init__.py").exists()}
    assert rooms <= found
    assert rooms <= set(
        re.findall(r"^\| `(\w+)` \|", (DOCS / "develop" / "architecture.md").read_text(), re.M)
    )


def test_the_graph_of_rules_is_that_of_the_default_run():
    command = [sys.executable, "-m", "snakemake", "--rulegraph", "dot"]
    printed = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True).stdout
    names = dict(re.findall(r'(\d+)\[label = "(\w+)"', printed))
    edges = {(names[a], names[b]) for a, b in re.findall(r"(\d+) -> (\d+)", printed)}
    picture = (DOCS / "develop" / "rulegraph.svg").read_text()
    shown = dict(re.findall(r"<title>(\d+)</title>.*?<text [^>]*>(\w+)</text>", picture, flags=re.DOTALL))
    drawn = {(shown[a], shown[b]) for a, b in re.findall(r"<title>(\d+)&#45;&gt;(\d+)</title>", picture)}
    assert set(shown.values()) == set(names.values())
    assert drawn <= edges
    # Those that are not drawn have a longer way.
    ways = {a: {b for start, b in drawn if start == a} for a in shown.values()}
    for _ in ways:
        ways = {a: ends | {c for b in ends for c in ways[b]} for a, ends in ways.items()}
    assert all(b in ways[a] for a, b in edges)


def test_the_glossary_is_in_order_and_defines_a_word_once():
    lines = (DOCS / "understand" / "glossary.md").read_text().splitlines()
    entries = [line.split("|")[1].strip(" *`").lower() for line in lines if line.startswith("| **")]
    assert len(entries) > 50
    assert entries == sorted(entries) and len(set(entries)) == len(entries)


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert f'version = "{citation["version"]}"' in (ROOT / "pyproject.toml").read_text()
    assert citation["authors"] and len(citation["references"]) == 2
