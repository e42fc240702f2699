"""Residual streams of a model shown a data set: one HDF5 shard for each block of samples and group of layers."""


rule extract_activations:
    input:
        samples=lambda wildcards: samples_file(wildcards.dataset),
        model=lambda wildcards: f"{model_path(wildcards.model)}/config.json",
        weights=lambda wildcards: weight_files(wildcards.model),
        # Only to bound the disk that temporary shards take: these files are not read.
        after=finished_groups,
    output:
        shard=kept_or_temporary(f"{RESULTS}/activations/{{model}}/{{dataset}}/{{layers}}/shard_{{block}}.h5"),
        left_out=f"{RESULTS}/activations/{{model}}/{{dataset}}/{{layers}}/left_out_{{block}}.csv",
    log:
        f"{RESULTS}/logs/extract_activations/{{model}}/{{dataset}}/{{layers}}/shard_{{block}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/extract_activations/{{model}}/{{dataset}}/{{layers}}/shard_{{block}}.tsv"
    wildcard_constraints:
        layers=one_of(map(group_folder, GROUPS)),
    conda:
        "../envs/vlmdiff.yaml"
    threads: CFG.threads
    resources:
        **rule_resources("extract_activations", mem_mb=2000, runtime=60),
    params:
        samples=lambda wildcards: CFG.dataset(wildcards.dataset).samples,
        fewer=lambda wildcards: fewer_samples(wildcards.dataset),
        subject=lambda wildcards: subject_params(wildcards.model),
        extraction=CFG.extraction.params("store", "layers_at_once"),
        layers=named_group,
        token_types=lambda wildcards: stored_tokens(CFG, wildcards.model, wildcards.dataset),
        code=code_digest("extract_activations"),
    script:
        "../workflow_scripts/extract_activations.py"


rule list_left_out:
    input:
        parts=[part for parts in left_out_parts().values() for part in parts],
    output:
        report(
            f"{RESULTS}/activations/left_out.csv",
            caption="captions/left_out.rst",
            category="Dictionaries",
            labels={"table": "tokens left out"},
        ),
    log:
        f"{RESULTS}/logs/list_left_out.log",
    benchmark:
        f"{RESULTS}/benchmarks/list_left_out.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("list_left_out", mem_mb=1000, runtime=5),
    params:
        parts=left_out_parts(),
        code=code_digest("list_left_out"),
    script:
        "../workflow_scripts/list_left_out.py"
