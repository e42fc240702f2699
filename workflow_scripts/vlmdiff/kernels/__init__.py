"""Compiled loops over sparse pairs of token and feature, each with a plain twin in `plain.py`."""
