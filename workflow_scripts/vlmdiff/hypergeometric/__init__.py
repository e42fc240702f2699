"""Tails of the hypergeometric distribution, exact to 1e-10, for millions of tables."""
