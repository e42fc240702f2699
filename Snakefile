"""vlmdiff: stage-wise model diffing of vision-language models, from checkpoints to figures."""

from snakemake.utils import min_version

min_version("9.0")


include: "rules/place.smk"


# A config file named on the command line describes a whole experiment: it replaces the built-in
# world's instead of being merged into it.
if workflow.modifier.is_main_snakefile() and not workflow.overwrite_configfiles:

    configfile: located("config/config.yaml")


# A workflow that uses this one as a module describes its report itself.
if workflow.modifier.is_main_snakefile():

    report: "rules/captions/workflow.rst"


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
include: f"{ROOT}/rules/steering.smk"
include: f"{ROOT}/rules/heads.smk"
include: f"{ROOT}/rules/comparisons.smk"
include: f"{ROOT}/rules/ground_truth.smk"
include: f"{ROOT}/rules/figures.smk"
include: f"{ROOT}/rules/confidence_figures.smk"
include: f"{ROOT}/rules/report.smk"
# Last, because it adds to all rules.
include: f"{ROOT}/rules/staleness.smk"


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
