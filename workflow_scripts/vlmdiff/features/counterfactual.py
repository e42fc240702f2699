"""Which features a change of the image turns as it turns a label.

Two images of every sample are compared: one after a change that touches the concept, and the image itself or
one after a change that does not. What a feature does more on the second tells the sample's label, if it does
so on samples of one value and the opposite on those of another. A feature that merely notices changes does
the same on both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import csc_matrix

from vlmdiff.data.samples import Sample
from vlmdiff.features.label_contrast import Measured, label_contrast, of_config
from vlmdiff.features.sample_maxima import sample_maxima
from vlmdiff.features.within_strata import ROUNDING
from vlmdiff.tables.features import CONTRAST
from vlmdiff.tables.io import write_table

Shards = Mapping[int, Sequence[str | Path]]


def differences(kept: csc_matrix, turned: csc_matrix) -> csc_matrix:
    """Return how much more each feature does on what a change has left alone, (samples, features).

    Less than a thousandth of the feature's largest activation counts as nothing.

    Args:
        kept: activations where the concept is as it was.
        turned: activations of the same samples where a change has turned it.
    """
    found = (kept - turned).tocsc()
    least = ROUNDING * kept.maximum(turned).max(axis=0).toarray().ravel()
    found.data[abs(found.data) < np.repeat(least, np.diff(found.indptr))] = 0
    found.eliminate_zeros()
    return found


def write_counterfactual(
    concept: str,
    samples: Sequence[Sample],
    shown: Sequence[Collection[str]],
    shards: tuple[Shards, Shards],
    dictionaries: Mapping[int, str | Path],
    criteria: Mapping[str, object],
    output: str | Path,
) -> None:
    """Write the contrast of one concept (contract CONTRAST).

    Args:
        concept: its name.
        samples: of the target, whose labels count.
        shown: ids of the samples of both data sets; samples that one of them lacks are left out.
        shards: activations by layer where the concept is as it was, and where a change has turned it.
        dictionaries: folder of the dictionary of each layer.
        criteria: `label`, `within`; `min_effect_size`, `min_frequency`, `fdr`.
        output: path of the table.

    Raises:
        MatchedError: a key is not there, or too few images have different values.
    """
    both = set.intersection(*map(set, shown))
    samples = [sample for sample in samples if sample.sample_id in both]
    ids = [sample.sample_id for sample in samples]

    def layers() -> Iterator[tuple[int, Measured]]:
        for layer, folder in dictionaries.items():
            kept, turned = (sample_maxima(one[layer], folder, layer).rows(ids) for one in shards)
            yield layer, Measured(differences(kept, turned), kept + turned)

    table = label_contrast(samples, layers(), len(dictionaries), *of_config(criteria))
    write_table(table.assign(concept=concept), CONTRAST, output)
