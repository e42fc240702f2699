"""Kills a run of the workflow again and again, and compares what it leaves with an uninterrupted run."""
