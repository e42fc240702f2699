"""Write where the results of the experiment come from."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.summary.provenance import write_provenance

    page = Path(snakemake.output[0])
    scripts = {script.stem for script in Path(snakemake.scriptdir).glob("*.py")}
    write_provenance(page.parent, page, scripts, snakemake.rule)
