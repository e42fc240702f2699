"""The experiment itself: what was asked for."""


rule write_config:
    output:
        f"{RESULTS}/config.yaml",
    log:
        f"{RESULTS}/logs/write_config.log",
    benchmark:
        f"{RESULTS}/benchmarks/write_config.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("write_config", mem_mb=1000, runtime=5),
    params:
        config=CFG.model_dump(mode="json"),
        code=code_digest("write_config"),
    script:
        "../workflow_scripts/write_config.py"
