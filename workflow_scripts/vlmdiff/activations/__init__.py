"""Activation shards: the written format, its checks, and streams of residuals read from it."""
