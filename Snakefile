"""vlmdiff: stage-wise model diffing of vision-language models, from checkpoints to figures."""


include: "rules/place.smk"


# A module has the config and report of its user. A named config file is a whole experiment: it replaces ours.
if workflow.modifier.is_main_snakefile():

    report: "rules/captions/workflow.rst"

    if not workflow.overwrite_configfiles:

        configfile: located("config/config.yaml")


include: f"{ROOT}/rules/common.smk"
include: f"{ROOT}/rules/experiment.smk"
include: f"{ROOT}/rules/world.smk"
include: f"{ROOT}/rules/models.smk"
include: f"{ROOT}/rules/data.smk"
include: f"{ROOT}/rules/held_out.smk"
include: f"{ROOT}/rules/activations.smk"
include: f"{ROOT}/rules/dictionaries.smk"
include: f"{ROOT}/rules/features.smk"
include: f"{ROOT}/rules/labels.smk"
include: f"{ROOT}/rules/interventions.smk"
include: f"{ROOT}/rules/heads.smk"
include: f"{ROOT}/rules/comparisons.smk"
include: f"{ROOT}/rules/ground_truth.smk"
include: f"{ROOT}/rules/scoreboard.smk"
include: f"{ROOT}/rules/explorer.smk"
include: f"{ROOT}/rules/figures.smk"
include: f"{ROOT}/rules/report.smk"
include: f"{ROOT}/rules/every_job.smk"


onstart:
    logger.info(plan(CFG))
    begin(workflow)


onsuccess:
    if Path(results("summary.md")).exists():
        logger.info(f"What was found: {results('summary.md')}")


onerror:
    logger.error(failure_summary(results("logs"), STARTED, log))


rule all:
    """Target: the whole experiment, with its report's tables and figures."""
    default_target: workflow.modifier.is_main_snakefile()
    input:
        # Snakemake makes again what was deleted only if a target names it.
        EXPERIMENT,
        results("figures/costs.svg"),
        results("provenance.md"),


rule controls:
    """Target: the same comparison for models with one thing taken away."""
    input:
        [results(file) for file in products.comparison_products(CFG, "controls")],


rule stages:
    """Target: data or model, and when: comparisons of stages, the stage grid, and transfer."""
    input:
        [results(file) for file in products.comparison_products(CFG, "stages") + products.stage_products(CFG)],


rule sensitivity:
    """Target: the same comparison with other choices of the analyst."""
    input:
        [results(file) for file in products.comparison_products(CFG, "sensitivity")],


include: f"{ROOT}/rules/checks.smk"
