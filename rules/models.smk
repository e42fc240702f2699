"""Checkpoints of the models under study, fetched from the Hugging Face hub."""


# It needs the network, which the nodes of a cluster may lack.
rule fetch_model:
    output:
        # All else in the folder is links into the hub's cache.
        config=f"{RESULTS}/models/{{checkpoint}}/config.json",
        # Not hub.json, by which a folder that is filled anew keeps its commit: Snakemake would delete it.
        commit=f"{RESULTS}/models/{{checkpoint}}/commit.json",
    log:
        f"{RESULTS}/logs/fetch_model/{{checkpoint}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/fetch_model/{{checkpoint}}.tsv"
    wildcard_constraints:
        checkpoint=one_of(hub_sources()),
    localrule: True
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("fetch_model", mem_mb=1000, runtime=240),
    params:
        source=lambda wildcards: hub_sources()[wildcards.checkpoint],
        code=code_digest("fetch_model"),
    script:
        "../workflow_scripts/fetch_model.py"
