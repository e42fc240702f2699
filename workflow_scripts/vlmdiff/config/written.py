"""A YAML text as values that know where they were written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from vlmdiff.config.load import ConfigError

# What to do about YAML that cannot be read, by words of the parser's message; the first that fit count.
REMEDIES = (
    ("'\\t'", "indent with blanks, not with tabs"),
    ("scanning a quoted scalar", "close the quotes"),
    ("parsing a flow ", "close the bracket, or put a comma between entries"),
    (
        "mapping values are not allowed",
        "put a text that holds `: ` in quotes, or indent the line as its section",
    ),
    ("could not find expected ':'", "write `key: value`, with a blank after the colon"),
    ("that cannot start any token", "put the text in quotes"),
    ("undefined alias", "name an anchor of this file, or put the text in quotes"),
    ("parsing a block ", "indent all keys of one section alike"),
)
# Puts another section's keys into one, where they may be said again.
MERGE = "<<"


@dataclass(frozen=True)
class Written:
    """A value of a config and where it was written.

    Attributes:
        value: a mapping or a list of further `Written`, or a plain value.
        where: the place in words, such as `in mine.yaml, line 3`.
    """

    value: Any
    where: str

    def plain(self) -> Any:
        """Return the value without places."""
        if isinstance(self.value, dict):
            return {key: entry.plain() for key, entry in self.value.items()}
        if isinstance(self.value, list):
            return [entry.plain() for entry in self.value]
        return self.value


NOTHING = Written({}, "")


def written(value: Any, where: str) -> Written:
    """Return a plain value with one place for all of it."""
    if isinstance(value, Mapping):
        return Written({key: written(entry, where) for key, entry in value.items()}, where)
    if isinstance(value, list):
        return Written([written(entry, where) for entry in value], where)
    return Written(value, where)


def written_in_yaml(text: str, name: str) -> Written:
    """Return what a YAML text says, with the line of each key.

    Args:
        text: the YAML.
        name: what the text is called in messages.

    Raises:
        yaml.YAMLError: the text is no YAML.
        RecursionError: an anchor holds itself.
    """
    loader = yaml.SafeLoader(text)

    def of_node(node: yaml.Node, line: int) -> Written:
        where = f"in {name}, line {line + 1}"
        if isinstance(node, yaml.MappingNode):
            pairs = ((loader.construct_object(key, deep=True), key, value) for key, value in node.value)
            return Written({key: of_node(value, at.start_mark.line) for key, at, value in pairs}, where)
        if isinstance(node, yaml.SequenceNode):
            return Written([of_node(item, item.start_mark.line) for item in node.value], where)
        return Written(loader.construct_object(node, deep=True), where)

    node = loader.get_single_node()
    if node is None:
        return Written(None, f"in {name}")
    check_keys(node, name)
    # Refuses keys that are no words, and puts what merge keys (`<<`) stand for into the nodes.
    loader.construct_document(node)
    return of_node(node, node.start_mark.line)


def yaml_problem(error: yaml.YAMLError) -> str:
    """Write in one line where YAML cannot be read, what is there, and what to do."""
    problem, context = (getattr(error, key, None) for key in ("problem", "context"))
    mark, start = (getattr(error, key, None) for key in ("problem_mark", "context_mark"))
    if problem is None or mark is None:
        return f"{' '.join(str(error).split())}; correct it"
    begun = f" {context} that begins in line {start.line + 1}" if context and start is not None else ""
    advice = next((what for words, what in REMEDIES if words in f"{problem} {context}"), "correct the line")
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}{begun}; {advice}"


def check_keys(node: yaml.Node, name: str) -> None:
    """Refuse a key that stands twice in one section: YAML would take the last one without a word.

    Raises:
        ConfigError: naming the key and both lines.
    """
    seen: dict[str, int] = {}
    for item in node.value if isinstance(node, yaml.CollectionNode) else ():
        key, value = item if isinstance(item, tuple) else (None, item)
        if key is not None and key.value != MERGE and isinstance(key, yaml.ScalarNode):
            line = key.start_mark.line + 1
            if (before := seen.setdefault(key.value, line)) != line:
                raise ConfigError(
                    f"{name}: found the key '{key.value}' in lines {before} and {line} of one section, "
                    "expected it once; remove one, or rename it"
                )
        check_keys(value, name)
