"""Ways of finding features side by side, held against the scene graphs of the built-in world."""
