"""The summary as a page of its own, and as the first one of Snakemake's report."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from textwrap import indent
from urllib.parse import quote

from markdown_it import MarkdownIt

# Links that lead to a place of their own, or to a heading of the page.
FIXED = re.compile(r"[a-z]+:|[#/]")
# How far docutils wants the text of a directive to stand in.
STANDS_IN = "   "
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
:root {{ color-scheme: light dark; }}
body {{ max-width: 60rem; margin: 0 auto; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; }}
table {{ display: block; overflow-x: auto; border-collapse: collapse; }}
th, td {{ padding: .2rem .7rem .2rem 0; text-align: left; border-bottom: 1px solid; }}
</style>
</head>
<body>
{body}</body>
</html>
"""


def front_page(summary: Path, folder: str) -> str:
    """Return a summary as HTML for docutils' `raw` directive; empty if it is not there.

    Args:
        summary: the Markdown file.
        folder: from the report to the file's folder; relative links and pictures are led there.
    """
    return indent(rendered(summary.read_text(), folder), STANDS_IN).strip() if summary.is_file() else ""


def summary_page(text: str, title: str) -> str:
    """Return a summary as a page for browsers, to lie next to the Markdown file."""
    return PAGE.format(title=escape(title), body=rendered(text, "."))


def rendered(text: str, folder: str) -> str:
    """Return Markdown as HTML; relative links and pictures are led to a folder."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(text)
    for token in tokens:
        for child in token.children or ():
            for name in ("href", "src"):
                target = str(child.attrGet(name) or "")
                if target and not FIXED.match(target):
                    child.attrSet(name, f"{quote(folder)}/{target}")
    return parser.renderer.render(tokens, parser.options, {})
