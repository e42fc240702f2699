"""The summary of an experiment in words and numbers, written from tables."""
