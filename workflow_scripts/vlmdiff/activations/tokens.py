"""Codes of token types, as stored in shards and carried by batches."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

BOS, IMAGE, TEXT, PADDING = 0, 1, 2, 255
TOKEN_TYPES = MappingProxyType({"image": IMAGE, "text": TEXT})
# Multiple of the median norm above which a token is massive, unless the config says otherwise.
DEFAULT_RATIO = 10.0


def type_codes(token_types: Sequence[str]) -> np.ndarray:
    """Return the uint8 codes of named token types.

    Raises:
        ValueError: a name is unknown, or there is none.
    """
    import numpy as np

    unknown = [name for name in token_types if name not in TOKEN_TYPES]
    if unknown or not token_types:
        raise ValueError(f"token types: found {list(token_types)}, expected some of {list(TOKEN_TYPES)}")
    return np.array(sorted(TOKEN_TYPES[name] for name in set(token_types)), dtype=np.uint8)
