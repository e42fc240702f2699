"""What features respond to, in samples and in words."""

# How the endpoint is reached and what it may cost: no answer depends on it.
ACCESS = {"api_key_env", "timeout_s", "retries", "backoff_s", "price_input", "price_output"}
LABELS = "labels/seed_{seed}/{concept}"


def label_layout(wildcards):
    """Return by layer the shards of each data set of a concept, as plain values."""
    names = once([concept_datasets(wildcards)])
    return {layer: [FILES.shards(CFG.diff.model, name, layer) for name in names] for layer in LAYERS}


rule label_features:
    """Label final features by the words and tokens at which they fire, with the evidence."""
    input:
        final=results("features/main/seed_{seed}/{concept}/final_features.csv"),
        samples=lambda wildcards: [FILES.samples(name) for name in once([concept_datasets(wildcards)])],
        shards=lambda wildcards: once(files for sets in label_layout(wildcards).values() for files in sets),
        dictionaries=FILES.dictionaries(CFG.diff.adapted, "{seed}"),
        model=FILES.model(CFG.diff.model),
        weights=FILES.weights(CFG.diff.model),
    output:
        labels=shown(f"{LABELS}/labels.csv", "Concepts", "Labels"),
        evidence=results(f"{LABELS}/evidence.csv"),
        chosen=results(f"{LABELS}/samples.csv"),
    threads: CFG.threads
    params:
        model=named_subject(CFG.diff.model),
        layers=LAYERS,
        layout=label_layout,
        criteria=CFG.labels.params(),
    script:
        "../workflow_scripts/label_features.py"


rule collect_gallery:
    """Find the strongest samples of the best features, and what the patches of their pictures add."""
    input:
        **checkpoint_of(CFG.diff.model),
        top_samples=lambda wildcards: FILES.statistics(
            "top_samples", MAIN, wildcards.seed, concept_datasets(wildcards)[:1]
        ),
        ranking=lambda wildcards: expand(rules.rank_features.output[0], **wildcards) if CFG.ablation else [],
        final=results("features/main/seed_{seed}/{concept}/final_features.csv"),
        samples=lambda wildcards: FILES.samples(concept_datasets(wildcards)[0]),
        dictionaries=FILES.dictionaries(CFG.diff.adapted, "{seed}"),
    output:
        table=results("figures/seed_{seed}/{concept}/top_samples_gallery.csv"),
        patches=results("figures/seed_{seed}/{concept}/top_samples_patches.csv"),
    threads: CFG.threads
    params:
        groups=lambda wildcards: CFG.concepts[wildcards.concept].target.groups,
        # Rows and columns; five of each fill a page.
        features=5,
        samples=5,
        model=named_subject(CFG.diff.model),
        layers=LAYERS,
        reading=lambda wildcards: facts(CFG.extraction, "batch_tokens", "massive_ratio"),
    script:
        "../workflow_scripts/collect_gallery.py"


rule describe_features:
    """Ask a language model to describe features, over the network, which cluster nodes may lack."""
    input:
        labels=rules.label_features.output.labels,
        evidence=rules.label_features.output.evidence,
        chosen=rules.label_features.output.chosen,
        samples=lambda wildcards: FILES.samples(concept_datasets(wildcards)[0]),
    output:
        descriptions=shown(f"{LABELS}/descriptions.csv", "Concepts", "Descriptions"),
        detections=results(f"{LABELS}/detections.csv"),
    localrule: True
    params:
        features=lambda wildcards: CFG.labelling.features,
        request=lambda wildcards: CFG.labelling.params("features", *ACCESS),
        access=not_compared(lambda _: CFG.labelling.model_dump(include=ACCESS)),
        # Not an output: Snakemake would delete it on failure, and paid answers must not be lost.
        cache=results("checkpoints/descriptions/seed_{seed}/{concept}.jsonl"),
    script:
        "../workflow_scripts/describe_features.py"


rule descriptions:
    """Target: descriptions of features by a language model; nothing if the configuration names no endpoint."""
    input:
        [results(file) for file in (products.label_tables(CFG, "descriptions") if CFG.labelling else [])],
