"""Find which samples that are reported on show an image that was used before."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.data.held_out import NamedSet, hold_out

    given, params, name = snakemake.input, snakemake.params, snakemake.wildcards.dataset
    hold_out(
        NamedSet(name, params.named_by["report"], given.samples, params.samples),
        [
            NamedSet(used, params.named_by["before"][used], file, samples)
            for (used, samples), file in zip(params.before.items(), given.before, strict=True)
        ],
        params.shared_images,
        snakemake.output[0],
    )
