"""Codes of token types, as stored in shards and carried by batches."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# Of these, image and text are data; a break ends a row of image tokens.
BOS, IMAGE, TEXT, BREAK, PADDING = 0, 1, 2, 3, 255
TOKEN_TYPES = MappingProxyType({"image": IMAGE, "text": TEXT})


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
