"""Causal checks: ablate feature directions, compare answers with matched random features."""
