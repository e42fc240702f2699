"""`make published`: are published checkpoints and dictionaries read as their own libraries read them?"""
