"""Texts of data sets, configurations and endpoints are shown as texts: no markup, no formulas."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from pathlib import Path
from unicodedata import category

import pandas as pd
import pytest
from damage import picture, tries
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text
from synthetic_tables import STRONG, ablation, accuracy, gallery_of, head_attention, samples

from vlmdiff.features.descriptions import Request, evidence_text
from vlmdiff.figures import effects, models
from vlmdiff.figures.gallery import attention_map, top_samples
from vlmdiff.figures.save import save_figure
from vlmdiff.figures.style import power
from vlmdiff.runtime.text import drawable
from vlmdiff.summary.markdown import escape, table

HOSTILE = (
    "<script>alert(1)</script>", "a | b", "`code`", "$\\frac{1}{", "$x$ and $y$", "100 $", "\\$", "**bold**",
    "[a](b)", "{{ 7 * 7 }}", "{% raw %}", "a_b_", "|x|_", "\u202eright to left", "zero\u200bwidth",
    "tab\tand\nline", "\x1b[2J", "--> ]]>", "&lt;", "naïve 空間", "\x07", "^{x}_{y}", "~~~", "# title",
    "<!-- -->",
)  # fmt: skip
PARTS = tuple(HOSTILE[i : i + 5] for i in range(0, len(HOSTILE), 5))
TEXTS = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=["Cs"]), max_size=20))


@tries(200)
@given(text=TEXTS)
def test_markdown_has_no_markup_and_one_line(text):
    shown = escape(text)
    assert "\n" not in shown and all(one.isprintable() or one == " " for one in shown)
    bare = re.sub(r"\\[\\`*_{}\[\]<>#|~&$]", "", shown)
    assert not re.search(r"[`*_{}\[\]#|~&$]", bare.replace("<U+", ""))
    assert len(re.findall(r"(?<!\\)\|", table(["a"], [[shown]])[-1])) == 2


def test_markdown_is_rendered_as_the_very_text():
    """By a real reader of Markdown, with the extension for tables."""
    markdown = pytest.importorskip("markdown_it", reason="no reader of Markdown is installed")
    reader = markdown.MarkdownIt("commonmark").enable("table")
    for text in HOSTILE:
        shown = reader.render("\n".join(table(["name"], [[escape(text)]])))
        assert (
            "<script" not in shown and "<strong" not in shown and "<a " not in shown and "<code" not in shown
        )
        assert shown.count("<td") == 1


def drawn(figure, folder: Path, kinds: tuple[str, ...] = ("svg",)) -> str:
    """Save a figure; return its SVG, which must be XML without scripts and links."""
    save_figure(figure, [folder / f"figure.{kind}" for kind in kinds])
    text = (folder / "figure.svg").read_text()
    names = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(text).iter()}
    assert not names & {"script", "foreignObject", "a"}
    return text


def by_turns(names: Iterable[str], texts: Sequence[str]) -> dict[str, str]:
    """Give each name one of the texts, with a number so that names stay different."""
    return {name: f"{texts[i % len(texts)]} {i}" for i, name in enumerate(names)}


@tries(100)
@given(text=TEXTS)
def test_a_text_that_is_drawn_keeps_its_places(text):
    shown = drawable(text)
    assert len(shown) == len(text)
    assert all(one.isprintable() or category(one) == "Zs" for one in shown)


@pytest.mark.parametrize("texts", PARTS)
def test_prompts_and_tokens_of_a_data_set_are_drawn_as_they_are(tmp_path, texts):
    image = tmp_path / "a.png"
    image.write_bytes(picture(size=(36, 36)))
    frame, patches = gallery_of(STRONG, [str(image)] * 50)
    told = [texts[i % len(texts)] for i in range(len(frame))]
    frame = frame.assign(prompt=told, token=told, token_start=-1, token_end=-1)
    drawn(top_samples(frame, patches), tmp_path, ("svg", "pdf", "png"))


@pytest.mark.parametrize("texts", PARTS)
def test_names_of_groups_and_data_sets_are_drawn_as_they_are(tmp_path, texts):
    frame = ablation(STRONG)
    groups = by_turns((name for name in frame["group"].unique() if name != "all"), texts)
    figure = effects.ablation_by_group(frame.replace({"group": groups}), "spatial_test", "general_test")
    drawn(figure, tmp_path)
    named = accuracy(STRONG)
    datasets = by_turns(named["dataset"].unique(), texts)
    drawn(models.model_accuracy(named.replace({"dataset": datasets}), "vlm"), tmp_path)


@pytest.mark.parametrize("texts", PARTS)
def test_captions_of_attention_are_drawn_as_they_are(tmp_path, texts):
    image = tmp_path / "a.png"
    image.write_bytes(picture(size=(36, 36)))
    shown = samples([str(image)] * 50)
    shown = shown.assign(prompt=[texts[i % len(texts)] for i in range(len(shown))])
    drawn(attention_map(head_attention(STRONG).assign(token=texts[0]), shown), tmp_path)


def test_a_dollar_in_a_figure_is_a_dollar(tmp_path):
    texts = by_turns(accuracy(STRONG)["dataset"].unique(), ("$x$", "$\\frac{1}{"))
    figure = models.model_accuracy(accuracy(STRONG).replace({"dataset": texts}), "vlm")
    drawn(figure, tmp_path)
    assert not any(text.get_parse_math() for text in figure.findobj(Text) if text.get_text())


@pytest.mark.parametrize(
    ("formula", "plain"),
    [("$\\mathdefault{10^{-3}}$", "10⁻³"), ("$\\mathdefault{2\\times10^{4}}$", "2×10⁴"), ("2^{12}", "2¹²"),
     ("$\\mathdefault{-10^{0}}$", "−10⁰"), ("$\\mathdefault{0}$", "0"), ("", "")],
)  # fmt: skip
def test_ticks_need_no_formula(formula, plain):
    assert power(formula) == plain


def test_evidence_for_an_endpoint_is_quoted():
    """What a data set says stays inside of quotes in the prompt, line breaks and all."""
    rows = [{"kind": "word", "rank": i, "what": text, "effect": 0.5} for i, text in enumerate(HOSTILE)]
    lines = evidence_text(pd.DataFrame(rows), {}).split("\n")
    assert len(lines) == 5
    assert "\x1b" not in lines[0] and "\u202e" not in lines[0]
    fields = {field.name for field in dataclasses.fields(Request)}
    assert "api_key" not in fields
