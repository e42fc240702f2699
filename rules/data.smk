"""Data sets prepared from public sources, from folders as people have them, and parts of other data sets."""


# It needs the network, which the nodes of a cluster may lack.
rule prepare_dataset:
    input:
        sources=source_files,
    output:
        # Images lie beside it: written, or as a link to where they are kept.
        samples=f"{RESULTS}/data/{{dataset}}/samples.jsonl",
        counts=report(
            f"{RESULTS}/data/{{dataset}}/counts.csv",
            caption="captions/dataset_counts.rst",
            category="Data sets",
            labels={"table": "Counts", "data set": "{dataset}"},
        ),
    log:
        f"{RESULTS}/logs/prepare_dataset/{{dataset}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/prepare_dataset/{{dataset}}.tsv"
    wildcard_constraints:
        dataset=one_of(prepared_datasets()),
    localrule: True
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("prepare_dataset", mem_mb=4000, runtime=240),
    params:
        entry=lambda wildcards: CFG.datasets[wildcards.dataset].params("text_tokens", "parts"),
        source=source_of_subset,
        code=code_digest("prepare_dataset"),
    script:
        "../workflow_scripts/prepare_dataset.py"
