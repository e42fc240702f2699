"""What a reader meets on the pages: sentences, headings and links of Markdown files."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
FENCE = re.compile(r"^\s*(```|~~~)")
ITEM = re.compile(r"^\s*(?:[-*+]|\d+\.)\s+")
HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*$")
CODE = re.compile(r"(`+)(.+?)\1", flags=re.DOTALL)
LINK = re.compile(r"!?\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
ENDS = re.compile(r"(?<=[.!?])[)\"*_]*\s+(?=[\"(*_\[`]*[A-Z0-9`])")
ABBREVIATIONS = re.compile(r"\b(e\.g|i\.e|etc|cf|vs|Fig|Eq|et al)\.")


def prose_lines(text: str) -> list[str]:
    """Return the lines of a page without fenced code; what is left out becomes an empty line."""
    lines, fenced = [], False
    for line in text.splitlines():
        fence = bool(FENCE.match(line))
        lines.append("" if fenced or fence else line)
        fenced ^= fence
    return lines


def paragraphs(text: str) -> list[str]:
    """Return the running text of a page: paragraphs and list items, without headings, tables and pictures."""
    found, current = [], ""
    for line in [*prose_lines(text), ""]:
        stripped = line.strip()
        apart = not stripped or stripped.startswith(("|", "#", "![", "<", ">"))
        if apart or ITEM.match(line):
            found.append(current)
            current = "" if apart else ITEM.sub("", line)
        else:
            current += " " + stripped
    return [paragraph.strip() for paragraph in found if paragraph.strip()]


def sentences(text: str) -> list[str]:
    """Split a page's running text into sentences; code counts as one word, a link as its words."""
    split = []
    for paragraph in paragraphs(text):
        plain = CODE.sub("`code`", LINK.sub(r"\1", paragraph))
        plain = ABBREVIATIONS.sub(lambda match: match[0][:-1], plain)
        split += [sentence for sentence in ENDS.split(plain) if words(sentence)]
    return split


def words(sentence: str) -> list[str]:
    """Return the words of a sentence: what holds a letter or a digit."""
    return [word for word in sentence.split() if re.search(r"\w", word)]


def anchor_of(heading: str) -> str:
    """Return the anchor that GitHub and the built site give to a heading."""
    plain = LINK.sub(r"\1", heading).replace("`", "").replace("*", "").lower()
    return re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-")


def anchors(text: str) -> list[str]:
    """Return the anchors of a page's headings, in their order."""
    return [anchor_of(match[2]) for line in prose_lines(text) if (match := HEADING.match(line))]


def links(text: str) -> list[str]:
    """Return the targets of a page's links and pictures."""
    plain = CODE.sub("", "\n".join(prose_lines(text)))
    return [match[2] for match in LINK.finditer(plain)]
