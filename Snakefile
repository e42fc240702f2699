"""vlmdiff: stage-wise model diffing of vision-language models, from checkpoints to figures."""

from snakemake.utils import min_version

min_version("9.0")


include: "rules/place.smk"


# A config file named on the command line describes a whole experiment: it replaces the built-in
# world's instead of being merged into it.
if workflow.modifier.is_main_snakefile() and not workflow.overwrite_configfiles:

    configfile: located("config/config.yaml")


report: "rules/captions/workflow.rst"


include: "rules/common.smk"
include: "rules/experiment.smk"
include: "rules/world.smk"
include: "rules/models.smk"
include: "rules/data.smk"
include: "rules/held_out.smk"
include: "rules/activations.smk"
include: "rules/dictionaries.smk"
include: "rules/features.smk"
include: "rules/labels.smk"
include: "rules/interventions.smk"
include: "rules/steering.smk"
include: "rules/heads.smk"
include: "rules/comparisons.smk"
include: "rules/ground_truth.smk"
include: "rules/figures.smk"
include: "rules/confidence_figures.smk"
include: "rules/report.smk"
# Last, because it adds to all rules.
include: "rules/staleness.smk"


onstart:
    logger.info(plan(CFG))


onerror:
    logger.error(failure_summary(f"{RESULTS}/logs", STARTED, log))


rule all:
    # A workflow that uses this one as a module has a default target of its own.
    default_target: workflow.modifier.is_main_snakefile()
    input:
        experiment_outputs(),
        f"{FIGURES}/costs.svg",
        f"{RESULTS}/provenance.md",


rule descriptions:
    input:
        description_tables(),


rule controls:
    input:
        comparison_outputs("controls"),


rule stages:
    input:
        comparison_outputs("stages"),
        stage_outputs(),


rule sensitivity:
    input:
        comparison_outputs("sensitivity"),


# Last, because it reads all rules.
check_resources()
check_files()
# As a module it knows neither all rules nor what else is asked for.
if workflow.modifier.is_main_snakefile():
    check_targets()
