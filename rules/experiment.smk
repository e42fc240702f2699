"""The experiment itself: what was asked for, and whether its results are whole."""


rule write_config:
    """Write the whole configuration, with everything that was filled in."""
    output:
        results("config.yaml"),
    params:
        config=CFG.model_dump(mode="json"),
    script:
        "../workflow_scripts/write_config.py"


# It makes nothing, so that it runs whenever it is asked for, and needs nothing, so that it makes nothing stale.
rule verify:
    """Target: check all results against the records of the jobs that wrote them."""
    localrule: True
    resources:
        **rule_resources("verify", mem_mb=500, runtime=240),
    params:
        experiment=RESULTS,
    script:
        "../workflow_scripts/verify.py"
