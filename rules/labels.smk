# What features respond to, in words.


rule label_features:
    input:
        final=f"{MAIN_FEATURES}/{{concept}}/final_features.csv",
        samples=lambda wildcards: [samples_file(name) for name in label_datasets(wildcards.concept)],
        shards=label_shards,
        dictionaries=dictionary_files(CFG.diff.adapted, "{seed}"),
        model=f"{model_path(CFG.diff.model)}/config.json",
        weights=weight_files(CFG.diff.model),
    output:
        labels=report(
            f"{LABELS}/labels.csv",
            caption="captions/labels.rst",
            category="Concepts",
            labels={"table": "Labels", "concept": "{concept}", "seed": "{seed}"},
        ),
        evidence=f"{LABELS}/evidence.csv",
    log:
        f"{RESULTS}/logs/label_features/seed_{{seed}}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/label_features/seed_{{seed}}/{{concept}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: CFG.threads
    resources:
        **rule_resources("label_features", mem_mb=2000, runtime=60),
    params:
        model=causal_model(),
        layers=LAYERS,
        layout=label_layout,
        criteria=CFG.labels.params(),
        code=code_digest("label_features"),
    script:
        "../workflow_scripts/label_features.py"


# It needs the network, which the nodes of a cluster may lack.
rule describe_features:
    input:
        labels=rules.label_features.output.labels,
        evidence=rules.label_features.output.evidence,
    output:
        report(
            f"{LABELS}/descriptions.csv",
            caption="captions/descriptions.rst",
            category="Concepts",
            labels={"table": "Descriptions", "concept": "{concept}", "seed": "{seed}"},
        ),
    log:
        f"{RESULTS}/logs/describe_features/seed_{{seed}}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/describe_features/seed_{{seed}}/{{concept}}.tsv"
    localrule: True
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("describe_features", mem_mb=1000, runtime=240),
    params:
        features=lambda wildcards: CFG.labelling.features,
        request=lambda wildcards: CFG.labelling.params("features", *ACCESS),
        access=not_compared(lambda _: CFG.labelling.model_dump(include=ACCESS)),
        # Not an output: Snakemake would delete it on failure, and paid answers must not be lost.
        cache=f"{RESULTS}/checkpoints/descriptions/seed_{{seed}}/{{concept}}.jsonl",
        code=code_digest("describe_features"),
    script:
        "../workflow_scripts/describe_features.py"
