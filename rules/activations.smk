# Residual streams of a model shown a data set, one HDF5 shard for each block of samples.


rule extract_activations:
    input:
        samples=lambda wildcards: samples_file(wildcards.dataset),
        model=lambda wildcards: f"{model_path(wildcards.model)}/config.json",
        vision_tower=lambda wildcards: vision_tower_files(wildcards.model),
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
        **rule_resources("extract_activations", mem_mb=2000, runtime=60),
    params:
        samples=lambda wildcards: CFG.dataset(wildcards.dataset).samples,
        fewer=lambda wildcards: getattr(CFG.dataset(wildcards.dataset), "on_missing", "error") == "skip",
        subject=lambda wildcards: subject_params(wildcards.model),
        extraction=CFG.extraction.params("store"),
        layers=LAYERS,
        code=code_digest("extract_activations"),
    script:
        "../workflow_scripts/extract_activations.py"
