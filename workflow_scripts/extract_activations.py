"""Store the residual streams of one model on one block of samples."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.extraction.blocks import extract_block, first_samples
    from vlmdiff.models.registry import available_device, load_subject

    params, wildcards = snakemake.params, snakemake.wildcards
    samples = first_samples(snakemake.input.samples, params.samples, params.fewer)
    folder = Path(snakemake.input.model).parent
    subject = load_subject(wildcards.model, params.subject, folder, available_device())
    extract_block(
        subject,
        samples,
        snakemake.output.shard,
        dataset=wildcards.dataset,
        block=int(wildcards.block),
        layers=params.layers,
        token_types=params.token_types,
        left_out=snakemake.output.left_out,
        **params.extraction,
    )
