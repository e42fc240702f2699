"""Try the candidates of a concept under neutral prompts."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.features.lexical import LexicalCriteria, NeutralRuns, lexical_filter

    given, params = snakemake.input, snakemake.params
    folders = [Path(file).parent for file in given.dictionaries]
    runs = NeutralRuns(
        model=params.model,
        spec=params.subject,
        path=Path(given.model).parent,
        dictionaries=dict(zip(params.layers, folders, strict=True)),
        samples_file=given.samples,
        prompts=params.prompts,
        batch_tokens=params.batch_tokens,
        describe_tokens=params.describe_tokens,
        concept_words=params.words,
        massive_ratio=params.massive_ratio,
    )
    lexical_filter(
        snakemake.wildcards.concept,
        params.target,
        params.unit,
        params.eps,
        params.strongest,
        (given.adapted, given.contrast),
        (given.top_samples, given.totals),
        runs,
        LexicalCriteria(**params.criteria),
        snakemake.output[0],
    )
