"""Contracts of the tables about data sets."""

from vlmdiff.tables.columns import contract

DATASET_COUNTS = contract(
    "What a prepared data set was asked for, and what it holds.",
    ("dataset", "str", "name of the data set in the config"),
    ("kind", "str", "kind of source"),
    ("source", "str", "where it comes from, as the config says"),
    ("origin", "str", "what exactly was read: commit or files"),
    ("split", "str", "split of the source"),
    ("offset", "int", "rows of the shuffled source that were left out first"),
    ("scanned", "int", "rows looked at after them, the unwanted ones included"),
    ("requested", "int", "samples asked for and found"),
    ("missing_images", "int", "of these, samples without an image, which are left out"),
    ("kept", "int", "samples of the data set"),
)
