"""The summary of the experiment in words and numbers, where it comes from, and what it cost."""

from importlib.util import find_spec

from vlmdiff.config.cases import headline_facts

# A report opens with the summary; its template is told nothing but the configuration. Where jobs have environments of
# their own, Snakemake's may lack what reads Markdown.
if (given := command_line()) is not None and given.report and find_spec("markdown_it"):
    from vlmdiff.summary.front import front_page

    summary = Path(results("summary.md"))
    config["front_page"] = front_page(summary, os.path.relpath(summary.parent, given.report.parent))


rule write_summary:
    """Write what was found, and how sure it is."""
    input:
        **TABLES,
    output:
        text=shown("summary.md", "Summary", "Summary"),
        page=results("summary.html"),
    params:
        names=products.summary_facts(CFG),
        headline=headline_facts(CFG),
    script:
        "../workflow_scripts/write_summary.py"


rule write_provenance:
    """Write where the results of the experiment come from."""
    input:
        EXPERIMENT,
    output:
        shown("provenance.md", "Summary", "Where it comes from"),
    script:
        "../workflow_scripts/write_provenance.py"


rule summarise_costs:
    """Sum what the jobs of each rule took."""
    input:
        # Of the whole experiment: it is written last.
        rules.write_provenance.output[0],
    output:
        shown("costs.csv", "Summary", "What it cost"),
    params:
        folder=results("benchmarks"),
    script:
        "../workflow_scripts/summarise_costs.py"


rule plot_costs:
    """Draw what the jobs of each rule took."""
    input:
        costs=rules.summarise_costs.output[0],
    output:
        **figure("costs", "Summary", "What it cost"),
    script:
        "../workflow_scripts/plot_costs.py"
