"""Compiled loops over activations and over active pairs of token and feature."""
