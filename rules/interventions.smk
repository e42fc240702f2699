"""Causal checks: what the model answers; features ranked on validation data and reported on test data; steering."""

from vlmdiff.config.cases import asked_data, reported_data

ABLATION = "interventions/seed_{seed}/{concept}"


rule evaluate_model:
    """Measure how often the model answers the test data's questions correctly."""
    input:
        **checkpoint_of(lambda wildcards: wildcards.model),
        samples=[FILES.samples(dataset) for dataset in asked_data(CFG)],
        held_out=[results(f"held_out/{dataset}.csv") for dataset in asked_data(CFG)],
    output:
        shown("accuracy/{model}.csv", "Models and data", "Accuracy", "accuracy"),
    threads: CFG.threads
    params:
        model=lambda wildcards: named_subject(wildcards.model),
        questions={
            "names": list(asked_data(CFG)),
            "limits": list(asked_data(CFG).values()),
            "batch_tokens": CFG.extraction.batch_tokens,
        },
        seed=CFG.seed,
    script:
        "../workflow_scripts/evaluate_model.py"


READERS = CFG.perplexity.models if CFG.perplexity else []


rule evaluate_perplexity:
    """Measure how well models read plain text, each held against the first."""
    input:
        model=[FILES.model(model) for model in READERS],
        weights=[file for model in READERS for file in FILES.weights(model)],
        samples=FILES.samples(CFG.perplexity.dataset) if CFG.perplexity else [],
    output:
        shown("perplexity.csv", "Models and data", "General language"),
    threads: CFG.threads
    params:
        models=[named_subject(model) for model in READERS],
        dataset=CFG.perplexity and CFG.perplexity.dataset,
        batch_tokens=CFG.extraction.batch_tokens,
        seed=CFG.seed,
    script:
        "../workflow_scripts/evaluate_perplexity.py"


def questions_of(section, use="report_on", names=("target", "control")):
    """Return the inputs that are a section's two sets of questions, test data with what of them is held out.

    Args:
        section: of the configuration; one that is left out has none.
        use: its key that names them.
        names: what the inputs are called.
    """
    if section is None:
        return {}
    data = getattr(section, use)
    files = dict(zip(names, map(FILES.samples, (data.target, data.control))))
    if use != "report_on":
        return files
    return files | {"held_out": [results(f"held_out/{name}.csv") for name in (data.target, data.control)]}


def question_sets(section):
    """Return how a section's two sets of questions are used, their paths aside."""
    return {
        "names": [section.target, section.control],
        "samples": section.samples,
        "batch_tokens": CFG.extraction.batch_tokens,
    }


rule rank_features:
    """Rank a concept's final features on validation data by what removing them does."""
    input:
        **checkpoint_of(CFG.diff.model),
        **questions_of(CFG.ablation, "rank_on"),
        dictionaries=FILES.dictionaries(CFG.diff.adapted, "{seed}"),
        final_features=results("features/main/seed_{seed}/{concept}/final_features.csv"),
        contrast=results("features/main/seed_{seed}/{concept}/contrast.parquet"),
    output:
        ranking=shown(f"{ABLATION}/ranking.csv", "Interventions", "Ranking"),
        pools=results(f"{ABLATION}/random_pools.csv"),
    threads: CFG.threads
    params:
        model=named_subject(CFG.diff.model),
        questions=lambda wildcards: question_sets(CFG.ablation.rank_on),
        seed=CFG.seed,
        stage=lambda wildcards: {
            "layers": LAYERS,
            "scope": CFG.ablation.headline.scope,
            **facts(CFG.ablation, "candidates", "verified", "random_draws"),
            **facts(CFG.extraction, "massive_ratio"),
        },
    script:
        "../workflow_scripts/rank_features.py"


rule evaluate_ablation:
    """Measure on test data what ablating the best-ranked features does, compared with random ones."""
    input:
        **checkpoint_of(CFG.diff.model),
        **questions_of(CFG.ablation),
        dictionaries=FILES.dictionaries(CFG.diff.adapted, "{seed}"),
        ranking=rules.rank_features.output.ranking,
        pools=rules.rank_features.output.pools,
    output:
        shown(f"{ABLATION}/ablation_{{scope}}.csv", "Interventions", "Ablation, {scope}", "ablation"),
    threads: CFG.threads
    params:
        model=named_subject(CFG.diff.model),
        questions=lambda wildcards: question_sets(CFG.ablation.report_on),
        seed=CFG.seed,
        stage=lambda wildcards: {
            "layers": LAYERS,
            **facts(CFG.ablation, "single_features", "set_sizes", "bootstrap"),
            **facts(CFG.extraction, "massive_ratio"),
        },
    script:
        "../workflow_scripts/evaluate_ablation.py"


def ablation_tables(wildcards):
    """Return the test effects of ablating a concept's features, one table a scope."""
    return expand(rules.evaluate_ablation.output[0], scope=CFG.ablation.scopes, **wildcards)


# Features of the user's own, for the first seed: indices mean other features in other dictionaries.
CHOSEN = "interventions/chosen/seed_{seed,0}"


rule read_chosen:
    """Read features of your own, such as the explorer exports."""
    input:
        lambda wildcards: CFG.ablation.chosen,
    output:
        results("interventions/chosen/features.csv"),
    params:
        layers=LAYERS,
    script:
        "../workflow_scripts/read_chosen.py"


use rule rank_features as rank_chosen with:
    input:
        **checkpoint_of(CFG.diff.model),
        **questions_of(CFG.ablation, "rank_on"),
        dictionaries=FILES.dictionaries(CFG.diff.adapted, "{seed}"),
        final_features=results("interventions/chosen/features.csv"),
        contrast=results("features/main/seed_{seed}/{concept}/contrast.parquet"),
    output:
        ranking=results(f"{CHOSEN}/{{concept}}/ranking.csv"),
        pools=results(f"{CHOSEN}/{{concept}}/random_pools.csv"),
    # Not those of the ranking that it stands next to: a job takes another with its log for a run of its own.
    log:
        results("logs/rank_features/chosen/seed_{seed}/{concept}.log"),
    benchmark:
        results("benchmarks/rank_features/chosen/seed_{seed}/{concept}.tsv")


use rule evaluate_ablation as ablate_chosen with:
    input:
        **checkpoint_of(CFG.diff.model),
        **questions_of(CFG.ablation),
        dictionaries=FILES.dictionaries(CFG.diff.adapted, "{seed}"),
        ranking=results(f"{CHOSEN}/{{concept}}/ranking.csv"),
        pools=results(f"{CHOSEN}/{{concept}}/random_pools.csv"),
    output:
        results(f"{CHOSEN}/{{concept}}/ablation_{{scope}}.csv"),
    log:
        results("logs/evaluate_ablation/chosen/seed_{seed}/{concept}/ablation_{scope}.log"),
    benchmark:
        results("benchmarks/evaluate_ablation/chosen/seed_{seed}/{concept}/ablation_{scope}.tsv")


rule chosen:
    """Target: features of your own, ablated as a concept's final ones; nothing if the configuration names none."""
    input:
        [results(file) for file in products.chosen_tables(CFG)],


rule evaluate_steering:
    """Add a concept's directions to the residual stream and measure how the answers change."""
    input:
        **checkpoint_of(lambda wildcards: CFG.steering.model),
        **questions_of(CFG.steering, "rank_on", ("rank_target", "rank_control")),
        **questions_of(CFG.steering),
        dictionaries=FILES.dictionaries(CFG.diff.adapted, "{seed}"),
        ranking=rules.rank_features.output.ranking,
    output:
        shown("interventions/seed_{seed}/{concept}/steering.csv", "Interventions", "Steering"),
    threads: CFG.threads
    params:
        model=lambda wildcards: named_subject(CFG.steering.model),
        validation=lambda wildcards: question_sets(CFG.steering.rank_on),
        test=lambda wildcards: question_sets(CFG.steering.report_on),
        seed=CFG.seed,
        stage=lambda wildcards: {
            "layers": LAYERS,
            **CFG.steering.params("concepts", "model", "rank_on", "report_on"),
        },
    script:
        "../workflow_scripts/evaluate_steering.py"
