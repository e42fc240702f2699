"""Write the experiment's summary in words and numbers."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.summary.write import Names, write_summary

    write_summary(
        accuracy=snakemake.input.accuracy,
        metrics=snakemake.input.metrics,
        thresholds=snakemake.input.thresholds,
        funnel=snakemake.input.funnel,
        ablation=snakemake.input.ablation,
        scores=snakemake.input.scores,
        agreement=snakemake.input.agreement,
        head_ablation=snakemake.input.head_ablation,
        output=snakemake.output[0],
        names=Names(**snakemake.params.names),
    )
