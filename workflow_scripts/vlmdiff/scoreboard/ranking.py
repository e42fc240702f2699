"""Rankings of features: by a comparison's contrast under each selection rule."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from vlmdiff.features.label_contrast import certain
from vlmdiff.interventions.selection_rules import RULES, filters, judged
from vlmdiff.tables.io import write_table
from vlmdiff.tables.scoreboard import METHOD_RANKING


def rank_findings(
    tables: Mapping[str, str | Path],
    output: str | Path,
    unit: str,
    eps: float,
    lexical: bool,
    certainty: Mapping[str, float] | None,
) -> None:
    """Write the features that each selection rule's filters leave, with scores (contract METHOD_RANKING).

    The score is what the contrast itself goes by: the p of counts, the effect size of the other contrasts.
    Those could ask for another effect size; which features would be in question is told, too.

    Args:
        tables: paths of `adapted`, `contrast` and `lexical`.
        output: path of the table.
        unit: unit of the contrast that selects.
        eps: visual energy above which a feature counts as visual.
        lexical: whether the concept has the lexical filter, which only what the contrast selects passes.
        certainty: `min_frequency` and `fdr` of a contrast that goes by effect size; None of counts.
    """
    frame = judged(tables, unit, eps)
    frame["score"] = -frame["log_p"] if certainty is None else frame["effect_size"]
    frame["certain"] = frame["selected"] if certainty is None else certain(frame, **certainty)
    frame["invariant"] |= not lexical
    masks = filters(frame)
    ranked = pd.concat([frame[masks[rule]].assign(rule=rule) for rule in RULES], ignore_index=True)
    order = np.lexsort(
        [ranked["feature"], ranked["layer"], -ranked["score"], ranked["rule"].map(RULES.index)]
    )
    write_table(ranked.iloc[order][METHOD_RANKING.names], METHOD_RANKING, output)
