"""Whether samples at hand can be compared between values of a label, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec

from vlmdiff.config.concepts import COUNTS
from vlmdiff.config.schema import Config
from vlmdiff.data.at_hand import Known
from vlmdiff.data.enough import pictures, records_of_side


def matched_problems(config: Config, known: Mapping[str, Known]) -> Iterator[str]:
    """Yield which concepts name a label or strata that samples lack, or have too little to compare.

    Snakemake's own environment may hold nothing but Snakemake, where jobs have theirs (`--sdm conda`). Then
    this is left to the jobs.
    """
    labelled = {name: one for name, one in config.concepts.items() if one.contrast != COUNTS}
    if not labelled or find_spec("scipy") is None:
        return
    from vlmdiff.features.matched_tests import Keys, MatchedError, matched_tests

    for name, concept in labelled.items():
        found = known.get(concept.target.dataset)
        # That a group is not there is told of the group.
        if found is None or not found.counted or not (records := records_of_side(known, concept.target)):
            continue
        images = [keys[-1] for keys in pictures(config, concept.target.dataset, records)]
        keys = Keys(concept.label, getattr(concept, "strata", None), concept.within)
        try:
            matched_tests(records, images, keys, concept.fdr)
        except MatchedError as error:
            yield f"concepts.{name}.{error}"
