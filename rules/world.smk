# The built-in world: its data sets, the training of its models, and their held-out accuracy.


rule generate_world:
    """Write one data set of the built-in world: drawn scenes, prompts and answers."""
    output:
        samples=f"{WORLD}/data/{{dataset}}/samples.jsonl",
        images=directory(f"{WORLD}/data/{{dataset}}/images"),
    log:
        f"{RESULTS}/logs/generate_world/{{dataset}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/generate_world/{{dataset}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("generate_world", mem_mb=1000, runtime=5),
    params:
        world=world_dataset_params,
        code=code_digest("generate_world"),
    script:
        "../workflow_scripts/generate_world.py"


rule train_world_base_lm:
    """Train the base language model on text about the world."""
    output:
        model=f"{WORLD_MODELS}/base_lm/config.json",
        weights=f"{WORLD_MODELS}/base_lm/model.safetensors",
        table=f"{WORLD}/training_logs/base_lm.csv",
    log:
        f"{RESULTS}/logs/train_world_base_lm/base_lm.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_world_base_lm/base_lm.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("train_world_base_lm", mem_mb=1200, runtime=20),
    params:
        world=lambda wildcards: CFG.world.stage_settings("language_model"),
        code=code_digest("train_world_base_lm"),
    script:
        "../workflow_scripts/train_world_base_lm.py"


rule train_world_vision:
    """Pre-train the vision tower and align its projector with the base model's words."""
    input:
        base_lm=f"{WORLD_MODELS}/base_lm/config.json",
        weights=f"{WORLD_MODELS}/base_lm/model.safetensors",
    output:
        model=f"{WORLD_MODELS}/vlm_0/config.json",
        weights=f"{WORLD_MODELS}/vlm_0/model.safetensors",
        table=f"{WORLD}/training_logs/vision.csv",
    log:
        f"{RESULTS}/logs/train_world_vision/vlm_0.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_world_vision/vlm_0.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("train_world_vision", mem_mb=2000, runtime=20),
    params:
        world=lambda wildcards: CFG.world.stage_settings("vision"),
        code=code_digest("train_world_vision"),
    script:
        "../workflow_scripts/train_world_vision.py"


rule train_world_vlm:
    """Tune the aligned VLM on questions about images, with snapshots on the way."""
    input:
        aligned=f"{WORLD_MODELS}/vlm_0/config.json",
        weights=f"{WORLD_MODELS}/vlm_0/model.safetensors",
    output:
        models=[f"{WORLD_MODELS}/{name}/config.json" for name in SNAPSHOTS.values()],
        weights=[f"{WORLD_MODELS}/{name}/model.safetensors" for name in SNAPSHOTS.values()],
        table=f"{WORLD}/training_logs/vlm.csv",
    log:
        f"{RESULTS}/logs/train_world_vlm/vlm.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_world_vlm/vlm.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("train_world_vlm", mem_mb=2000, runtime=120),
    params:
        world=lambda wildcards: CFG.world.stage_settings("tuning"),
        percentages=list(SNAPSHOTS),
        # Not an output: Snakemake would delete it on failure, and the next run resumes from it.
        checkpoints=f"{WORLD}/checkpoints/vlm",
        code=code_digest("train_world_vlm"),
    script:
        "../workflow_scripts/train_world_vlm.py"


rule train_world_control:
    """Train a model like the real one, with one thing taken away (docs/understand/controls.md)."""
    input:
        base_lm=lambda wildcards: f"{world_models_folder()}/base_lm/config.json",
        vlm=lambda wildcards: f"{world_models_folder()}/vlm/config.json",
        weights=lambda wildcards: [
            f"{world_models_folder()}/{name}/model.safetensors" for name in ["base_lm", "vlm"]
        ],
        log=lambda wildcards: real_training_log(),
    output:
        model=f"{WORLD_MODELS}/{{control}}/config.json",
        weights=f"{WORLD_MODELS}/{{control}}/model.safetensors",
        table=f"{WORLD}/training_logs/{{control}}.csv",
    log:
        f"{RESULTS}/logs/train_world_control/{{control}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_world_control/{{control}}.tsv"
    wildcard_constraints:
        control=one_of(world_controls()),
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("train_world_control", mem_mb=2000, runtime=120),
    params:
        world=control_settings,
        kind=lambda wildcards: CFG.world.controls[wildcards.control],
        # Not an output: Snakemake would delete it on failure, and the next run resumes from it.
        checkpoints=f"{WORLD}/checkpoints/{{control}}",
        code=code_digest("train_world_control"),
    script:
        "../workflow_scripts/train_world_control.py"


rule evaluate_world:
    """Measure held-out accuracy with images, without them, and with shuffled ones."""
    input:
        models=lambda wildcards: [
            f"{WORLD_ORIGINS[wildcards.origin]}/{name}/config.json"
            for name in measured_models(wildcards.origin)
        ],
        weights=lambda wildcards: [
            f"{WORLD_ORIGINS[wildcards.origin]}/{name}/model.safetensors"
            for name in measured_models(wildcards.origin)
        ],
        samples=[f"{WORLD}/data/{name}/samples.jsonl" for name in world_test_datasets()],
        images=[folder_beside(f"{WORLD}/data/{name}/images") for name in world_test_datasets()],
    output:
        table=report(
            f"{WORLD}/accuracy_{{origin}}.csv",
            caption="captions/accuracy.rst",
            category="Models",
            labels={"table": "Accuracy", "checkpoints": "{origin}"},
        ),
    log:
        f"{RESULTS}/logs/evaluate_world/{{origin}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate_world/{{origin}}.tsv"
    wildcard_constraints:
        origin="shipped|trained|controls",
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("evaluate_world", mem_mb=1500, runtime=10),
    params:
        models=lambda wildcards: measured_models(wildcards.origin),
        datasets=world_test_datasets(),
        seed=CFG.seed,
        code=code_digest("evaluate_world"),
    script:
        "../workflow_scripts/evaluate_world.py"


rule world_models:
    """Train all models of the built-in world from nothing and measure them."""
    input:
        f"{WORLD}/accuracy_trained.csv",
        [f"{WORLD_MODELS}/{name}/config.json" for name in ["base_lm", "vlm_0", *SNAPSHOTS.values()]],
        [f"{WORLD}/training_logs/{name}.csv" for name in ["base_lm", "vision", "vlm"]],
