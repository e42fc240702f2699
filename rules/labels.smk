"""What features respond to, in words."""

# How the endpoint is reached and what it may cost: no answer depends on it.
ACCESS = {"api_key_env", "timeout_s", "retries", "backoff_s", "price_input", "price_output"}


def label_layout(wildcards):
    """Return by layer the shards of each data set of a concept, as plain values."""
    names = once([concept_datasets(wildcards.concept)])
    return {layer: [shards(CFG.diff.model, name, layer) for name in names] for layer in LAYERS}


rule label_features:
    """Label final features by the words and tokens at which they fire, with the evidence."""
    input:
        final=results("features/main/seed_{seed}/{concept}/final_features.csv"),
        samples=lambda wildcards: [samples_file(name) for name in once([concept_datasets(wildcards.concept)])],
        shards=lambda wildcards: once(files for sets in label_layout(wildcards).values() for files in sets),
        dictionaries=dictionary_files(CFG.diff.adapted, "{seed}"),
        model=config_file(CFG.diff.model),
        weights=weight_files(CFG.diff.model),
    output:
        labels=shown("labels/seed_{seed}/{concept}/labels.csv", "Concepts", table="Labels"),
        evidence=results("labels/seed_{seed}/{concept}/evidence.csv"),
    threads: CFG.threads
    resources:
        **rule_resources("label_features", mem_mb=2000, runtime=60),
    params:
        model=named_subject(CFG.diff.model),
        layers=LAYERS,
        layout=label_layout,
        criteria=CFG.labels.params(),
    script:
        "../workflow_scripts/label_features.py"


rule describe_features:
    """Ask a language model to describe features, over the network, which cluster nodes may lack."""
    input:
        labels=rules.label_features.output.labels,
        evidence=rules.label_features.output.evidence,
    output:
        shown("labels/seed_{seed}/{concept}/descriptions.csv", "Concepts", table="Descriptions"),
    localrule: True
    resources:
        **rule_resources("describe_features", mem_mb=1000, runtime=240),
    params:
        features=lambda wildcards: CFG.labelling.features,
        request=lambda wildcards: CFG.labelling.params("features", *ACCESS),
        access=not_compared(lambda _: CFG.labelling.model_dump(include=ACCESS)),
        # Not an output: Snakemake would delete it on failure, and paid answers must not be lost.
        cache=results("checkpoints/descriptions/seed_{seed}/{concept}.jsonl"),
    script:
        "../workflow_scripts/describe_features.py"


def label_tables(name="labels"):
    """Return one table on the features of all studied concepts and seeds."""
    return expand(
        results(f"labels/seed_{{seed}}/{{concept}}/{name}.csv"), seed=SEEDS, concept=CFG.studied_concepts()
    )


def description_tables():
    """Return the descriptions; none if the configuration names no endpoint."""
    return label_tables("descriptions") if CFG.labelling else []
