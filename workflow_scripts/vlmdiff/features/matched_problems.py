"""Whether samples at hand can be compared between values of a label, before anything runs."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec

from vlmdiff.config.concepts import COUNTS
from vlmdiff.config.schema import Config
from vlmdiff.data.at_hand import Known, Record
from vlmdiff.data.enough import pictures, records_of_side

log = logging.getLogger(__name__)


def matched_problems(config: Config, known: Mapping[str, Known]) -> Iterator[str]:
    """Yield which concepts name a label or strata that samples lack, or have too little to compare.

    Where strata hold different texts, of which words can tell values of the label, a warning is logged.
    Snakemake's own environment may hold nothing but Snakemake, where jobs have theirs (`--sdm conda`). Then
    this is left to the jobs.
    """
    labelled = {name: one for name, one in config.concepts.items() if one.contrast != COUNTS}
    if not labelled or find_spec("scipy") is None:
        return
    from vlmdiff.features.matched_tests import Keys, MatchedError, matched_tests

    for name, concept in labelled.items():
        dataset, strata = concept.target.dataset, getattr(concept, "strata", None)
        found = known.get(dataset)
        # That a group is not there is told of the group.
        if found is None or not found.counted or not (records := records_of_side(known, concept.target)):
            continue
        # A picture that nothing tells yet counts as one of its own.
        known_by = pictures(config, dataset, records)
        images = [keys[-1] if keys else f"sample {row}" for row, keys in enumerate(known_by)]
        try:
            tests = matched_tests(records, images, Keys(concept.label, strata, concept.within), concept.fdr)
        except MatchedError as error:
            yield f"concepts.{name}.{error} (data set '{dataset}', {found.place})"
            continue
        compared = {int(row) for test in tests for row in test.rows}
        if strata is not None and (mixed := of_several_texts(records, strata, compared)):
            log.warning(
                "concepts.%s.strata: samples that agree in '%s' have different texts (of %d of its values), "
                "whose words may tell values of the label apart, too; all is well where they say the same",
                name, strata, mixed,
            )  # fmt: skip


def of_several_texts(records: Sequence[Record], strata: str, rows: Iterable[int]) -> int:
    """Count the strata in which samples that are compared have different texts.

    Args:
        records: the samples.
        strata: key of the samples; see `Keys`.
        rows: numbers of those that are compared.
    """
    from vlmdiff.features.matched_tests import look_up

    texts: dict[str | None, set[str]] = defaultdict(set)
    for row in rows:
        texts[look_up(records[row], strata)].add(records[row]["prompt"])
    return sum(len(one) > 1 for one in texts.values())
