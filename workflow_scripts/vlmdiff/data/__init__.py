"""Data sets: samples with their checks, and batches of similar length."""
