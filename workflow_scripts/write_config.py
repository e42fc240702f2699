"""Write the whole configuration, defaults included, beside the results that it led to."""

from vlmdiff.runtime.job import job

with job(snakemake):
    import yaml

    from vlmdiff.runtime.files import replacing

    with replacing(snakemake.output[0]) as temporary:
        temporary.write_text(yaml.safe_dump(snakemake.params.config, sort_keys=False))
