"""Keep tokens, keys and passwords out of messages and logs."""

from __future__ import annotations

import logging
import os
import re

HIDDEN = "***"
# Shorter values are words that a text may hold by chance.
SHORTEST_SECRET = 6
SECRET_NAMES = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|(API|ACCESS|PRIVATE)_?KEY)", re.IGNORECASE)
USER = re.compile(r"(?<=://)[^/\s@]+@")
QUERY = re.compile(r"(https?://[^\s?'\")>]+)\?[^\s'\")>]+")
BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}")
# What moves the cursor, colours or turns text at a terminal.
TERMINAL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")


def secret_values() -> list[str]:
    """Return the values of environment variables whose names say that they are secret, longest first."""
    found = {
        value.strip()
        for name, value in os.environ.items()
        if SECRET_NAMES.search(name) and len(value.strip()) >= SHORTEST_SECRET
    }
    return sorted(found, key=lambda value: (-len(value), value))


def redacted(text: str) -> str:
    """Return a text without secrets: users and queries of addresses, tokens, values of the environment."""
    for value in secret_values():
        text = text.replace(value, HIDDEN)
    text = QUERY.sub(rf"\1?{HIDDEN}", USER.sub(f"{HIDDEN}@", text))
    return HUB_TOKEN.sub(HIDDEN, BEARER.sub(rf"\1 {HIDDEN}", text))


class RedactingFormatter(logging.Formatter):
    """Writes log records, those of other libraries and tracebacks too, without secrets and terminal codes."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line or lines of a record."""
        return TERMINAL.sub(lambda found: f"<U+{ord(found[0]):04X}>", redacted(super().format(record)))
