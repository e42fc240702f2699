# Residual streams of a model shown a data set, one HDF5 shard for each block of samples.


rule extract_activations:
    input:
        samples=lambda wildcards: samples_file(wildcards.dataset),
        model=lambda wildcards: f"{model_path(wildcards.model)}/config.json",
    output:
        f"{RESULTS}/activations/{{model}}/{{dataset}}/shard_{{block}}.h5",
    log:
        f"{RESULTS}/logs/extract_activations/{{model}}/{{dataset}}/shard_{{block}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/extract_activations/{{model}}/{{dataset}}/shard_{{block}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: CFG.threads
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        samples=lambda wildcards: CFG.dataset(wildcards.dataset).samples,
        subject=lambda wildcards: CFG.models[wildcards.model].params("path"),
        extraction=CFG.extraction.params(),
        layers=LAYERS,
        code=code_digest("extract_activations"),
    script:
        "../workflow_scripts/extract_activations.py"
