"""Which features tell a label apart where the text is the same (docs/understand/contrast_text_matched.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vlmdiff.data.samples import Sample
from vlmdiff.features.label_contrast import Measured, label_contrast, of_config
from vlmdiff.features.sample_maxima import sample_maxima
from vlmdiff.tables.features import CONTRAST
from vlmdiff.tables.io import write_table


def write_text_matched(
    concept: str,
    samples: Sequence[Sample],
    shards: Mapping[int, Sequence[str | Path]],
    dictionaries: Mapping[int, str | Path],
    criteria: Mapping[str, object],
    output: str | Path,
) -> None:
    """Write the contrast of one concept (contract CONTRAST).

    Args:
        concept: its name.
        samples: what is compared.
        shards: activations of their data set by layer.
        dictionaries: folder of the dictionary of each layer.
        criteria: `label`, `strata`, `within`; `min_effect_size`, `min_frequency`, `fdr`.
        output: path of the table.

    Raises:
        MatchedError: a key is not there, or no stratum holds different values in enough images.
    """
    ids = [sample.sample_id for sample in samples]
    layers = (
        (layer, Measured(sample_maxima(shards[layer], folder, layer).rows(ids)))
        for layer, folder in dictionaries.items()
    )
    table = label_contrast(samples, layers, len(dictionaries), *of_config(criteria))
    write_table(table.assign(concept=concept), CONTRAST, output)
