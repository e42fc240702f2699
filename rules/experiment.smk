"""The experiment itself: what was asked for, and whether its results are whole."""


rule write_config:
    """Write the whole configuration, with everything that was filled in."""
    output:
        results("config.yaml"),
    log:
        logs("write_config"),
    benchmark:
        benchmarks("write_config")
    conda:
        "../envs/vlmdiff.yaml"
    resources:
        **rule_resources("write_config", mem_mb=1000, runtime=5),
    params:
        config=CFG.model_dump(mode="json"),
        code=code_digest("write_config"),
    script:
        "../workflow_scripts/write_config.py"


# It makes nothing, so that it runs whenever it is asked for, and needs nothing, so that it makes nothing stale.
rule verify:
    """Target: check all results against the records of the jobs that wrote them."""
    log:
        logs("verify"),
    localrule: True
    conda:
        "../envs/vlmdiff.yaml"
    resources:
        **rule_resources("verify", mem_mb=500, runtime=240),
    params:
        experiment=RESULTS,
        code=code_digest("verify"),
    script:
        "../workflow_scripts/verify.py"
