"""Which data sets are prepared."""


def prepared_datasets():
    """Return the names of the data sets that a rule prepares from their sources."""
    return [name for name, entry in CFG.datasets.items() if is_prepared(entry)]
