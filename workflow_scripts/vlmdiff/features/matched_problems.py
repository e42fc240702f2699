"""Whether samples at hand can be compared within strata, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vlmdiff.config.concepts import COUNTS
from vlmdiff.config.schema import Config
from vlmdiff.data.at_hand import Known
from vlmdiff.data.enough import pictures, records_of_side
from vlmdiff.features.matched_tests import Keys, MatchedError, matched_tests


def matched_problems(config: Config, known: Mapping[str, Known]) -> Iterator[str]:
    """Yield which concepts name a label or strata that samples lack, or have too little to compare."""
    for name, concept in config.concepts.items():
        found = known.get(concept.target.dataset)
        if concept.contrast == COUNTS or found is None or not found.counted:
            continue
        # That a group is not there is told of the group.
        if not (records := records_of_side(known, concept.target)):
            continue
        images = [keys[-1] for keys in pictures(config, concept.target.dataset, records)]
        keys = Keys(concept.label, getattr(concept, "strata", None), concept.within)
        try:
            matched_tests(records, images, keys, concept.fdr)
        except MatchedError as error:
            yield f"concepts.{name}.{error}"
