"""Sparse dictionaries: modules, files, training and held-out evaluation."""
