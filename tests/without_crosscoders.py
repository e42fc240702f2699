"""The default configuration without what reads two models, for tests of settings that those refuse."""

from __future__ import annotations

from typing import Any


def without_crosscoders(values: dict[str, Any]) -> dict[str, Any]:
    """Take crosscoders, and all that names one, out of a configuration; return it."""
    for section in (values["dictionaries"], values["comparisons"], values["scoreboard"]["methods"]):
        for name in [one for one in section if one.startswith("crosscoder")]:
            del section[name]
    return values
