"""Contracts of the tables about data sets."""

from vlmdiff.tables.columns import contract

DATASET_COUNTS = contract(
    "What a prepared data set was asked for, and what it holds.",
    ("dataset", "str", "name of the data set in the config"),
    ("kind", "str", "kind of source"),
    ("source", "str", "where it comes from, as the config says"),
    ("origin", "str", "what exactly was read: commit or files"),
    ("split", "str", "split of the source; of a subset its part"),
    ("offset", "int", "rows of the shuffled source that were left out first"),
    ("scanned", "int", "rows looked at after them, the unwanted ones included"),
    ("requested", "int", "samples asked for and found"),
    ("missing_images", "int", "of these, samples without an image, which are left out"),
    ("kept", "int", "samples of the data set"),
)

SHARED_IMAGE = "shared image"
HELD_OUT = contract(
    "One sample of a data set that is reported on: whether it is held out.",
    ("dataset", "str", "the data set that is reported on"),
    ("sample_id", "str", "the sample"),
    ("image", "str", "what its image is known by: public id, or SHA-256 of the file; empty without an image"),
    ("kept", "bool", "whether it is reported on"),
    ("reason", "str", "what it shares with data that were used before: `shared image`, or empty"),
    ("shared_with", "str", "the data set that used the image before; empty if none did"),
    ("shared_sample", "str", "a sample of that data set with the image"),
)
