"""Capturing the residual streams of a model on a data set into activation shards."""
