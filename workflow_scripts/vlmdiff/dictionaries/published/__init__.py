"""Dictionaries that others published: one reader a format, all of them to this project's conventions."""
