"""Which data are reported on, and which are used before."""

from vlmdiff.config.held_out import reported, used_before
from vlmdiff.config.schema import references

# Data sets with a key that names each.
REPORTED, USED_BEFORE = reported(references(CFG)), used_before(references(CFG))


def held_out_tables(section):
    """Return which samples of a section's target and control are held out."""
    return [f"{RESULTS}/held_out/{name}.csv" for name in (section.target, section.control)]
