"""The summary as the first page of Snakemake's report."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import indent
from urllib.parse import quote

from markdown_it import MarkdownIt

# Links that lead to a place of their own, or to a heading of the page.
FIXED = re.compile(r"[a-z]+:|[#/]")
# How far docutils wants the text of a directive to stand in.
STANDS_IN = "   "


def front_page(summary: Path, folder: str) -> str:
    """Return a summary as HTML for docutils' `raw` directive; empty if it is not there.

    Args:
        summary: the Markdown file.
        folder: from the report to the file's folder; relative links and pictures are led there.
    """
    if not summary.is_file():
        return ""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(summary.read_text())
    for token in tokens:
        for child in token.children or ():
            for name in ("href", "src"):
                target = str(child.attrGet(name) or "")
                if target and not FIXED.match(target):
                    child.attrSet(name, f"{quote(folder)}/{target}")
    page = parser.renderer.render(tokens, parser.options, {})
    return indent(page, STANDS_IN).strip()
