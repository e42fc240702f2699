"""Side-by-side timings: contestants run A B A B in one process, and medians of ratios are printed."""
