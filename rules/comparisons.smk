"""Controls, stages and sensitivity: other comparisons than the main one, and whether findings recur."""

from vlmdiff.config.cases import (
    TARGETS,
    compared_cases,
    compared_concepts,
    default_cases,
    described_cases,
    selection_rules,
)


rule match_seeds:
    """Match features over seeds: which of the findings recur."""
    input:
        dictionaries=[file for seed in SEEDS for file in dictionary_files(CFG.diff.adapted, seed)],
        adapted=expand(results("features/main/seed_{seed}/adapted.parquet"), seed=SEEDS),
        final=[results(f"features/main/seed_{seed}/{{concept}}/final_features.csv") for seed in SEEDS],
    output:
        shown(
            "features/main/recurrence/{concept}.csv",
            "How sure are we",
            "recurrence",
            table="Recurrence over seeds",
        ),
    resources:
        **rule_resources("match_seeds", mem_mb=1000, runtime=60),
    params:
        layers=LAYERS,
    script:
        "../workflow_scripts/match_seeds.py"


def recurrence_tables():
    """Return the tables of recurrence over seeds; none for a single seed."""
    return expand(rules.match_seeds.output[0], concept=CFG.studied_concepts()) if CFG.seeds > 1 else []


rule evaluate_selection:
    """Measure on test data what ablating the features of each selection rule does."""
    input:
        **checkpoint_of(compared_model),
        **questions_of(CFG.ablation),
        dictionaries=compared("adapted"),
        adapted=f"{FEATURES}/adapted.parquet",
        contrast=f"{FEATURES}/{{concept}}/contrast.parquet",
        lexical=f"{FEATURES}/{{concept}}/lexical.parquet",
    output:
        shown(
            "interventions/comparisons/{comparison}/seed_{seed}/{concept}/selection.csv",
            "How sure are we",
            table="Selection rules",
        ),
    threads: CFG.threads
    resources:
        **rule_resources("evaluate_selection", mem_mb=3000, runtime=60),
    params:
        model=lambda wildcards: named_subject(compared_model(wildcards)),
        questions=lambda wildcards: question_sets(CFG.ablation.report_on),
        seed=CFG.seed,
        stage=lambda wildcards: {
            "layers": LAYERS,
            "unit": CFG.concepts[wildcards.concept].unit,
            "eps": CFG.comparison(wildcards.comparison).eps,
            "rules": selection_rules(wildcards.comparison),
            "sizes": CFG.ablation.selection_sizes,
            "draws": CFG.ablation.selection_draws,
            "random_draws": CFG.ablation.random_draws,
            "bootstrap": CFG.ablation.bootstrap,
            "massive_ratio": CFG.extraction.massive_ratio,
        },
    script:
        "../workflow_scripts/evaluate_selection.py"


def selections(cases, concepts):
    """Return what ablating the features of comparisons does; nothing without ablation."""
    if CFG.ablation is None:
        return []
    return [
        results(f"interventions/comparisons/{comparison}/seed_{seed}/{concept}/selection.csv")
        for comparison, seed in cases
        for concept in concepts
    ]


def default_selections(wildcards=None):
    """Return the selection tables of the default target: of the main comparison and those in which a model was tuned."""
    return selections([(MAIN, 0), *default_cases(CFG)], CFG.ablation.concepts if CFG.ablation else [])


def funnels(cases, concepts):
    """Return how many features each criterion leaves in comparisons."""
    return [
        results(f"features/{comparison}/seed_{seed}/{concept}/funnel.csv")
        for comparison, seed in cases
        for concept in concepts
    ]


def default_funnels():
    """Return what comparisons of `all` find, where nothing is ablated that would ask for it."""
    return [] if CFG.ablation else funnels(default_cases(CFG), CFG.studied_concepts())


def untuned_funnels():
    """Return the funnels of the model that was never tuned, for studied concepts and those that are compared."""
    name = CFG.diff.untuned
    if name is None:
        return []
    seeds = range(CFG.comparisons[name].seeds)
    return funnels([(name, seed) for seed in seeds], compared_concepts(CFG))


def comparison_tables(name):
    """Return an input function: one table of each comparison of a target."""
    return lambda wildcards: [
        results(f"features/{comparison}/seed_{seed}/{name.format(**wildcards)}")
        for comparison, seed in compared_cases(CFG, wildcards.target)
    ]


rule summarise_comparisons:
    """Put all comparisons of a target side by side, for one concept."""
    input:
        thresholds=comparison_tables("thresholds.csv"),
        funnel=comparison_tables("{concept}/funnel.csv"),
        check=comparison_tables("{concept}/contrast_check.csv"),
        final=comparison_tables("{concept}/final_features.csv"),
        selection=lambda wildcards: selections(compared_cases(CFG, wildcards.target), [wildcards.concept]),
        dictionaries=lambda wildcards: [
            file
            for name, seed in compared_cases(CFG, wildcards.target)
            for file in dictionary_files(CFG.comparison(name).adapted, seed)
        ],
    output:
        shown("comparisons/{target}/{concept}.csv", "How sure are we", "comparisons", table="{target}"),
    wildcard_constraints:
        target=one_of(TARGETS),
    resources:
        **rule_resources("summarise_comparisons", mem_mb=2000, runtime=30),
    params:
        entries=lambda wildcards: described_cases(CFG, wildcards.target, wildcards.concept),
        layers=LAYERS,
        data=reported_data(CFG.ablation),
    script:
        "../workflow_scripts/summarise_comparisons.py"


def corner_files(corner):
    """Return an input function: the dictionaries of a corner of the stage grid."""

    def files(wildcards):
        if CFG.stages.grid is None:
            return []
        corners = {"base": CFG.diff.base, **CFG.stages.grid.corners()}
        return dictionary_files(corners[corner], wildcards.seed)

    return files


CORNERS = ["base", "data", "model", "data_then_model", "model_then_data"]


rule compare_stages:
    """Measure how features turn along the edges of the stage grid: data first or model first."""
    input:
        **{corner: corner_files(corner) for corner in CORNERS},
        adapted=results("features/main/seed_{seed}/adapted.parquet"),
        final=results(f"features/main/seed_{{seed}}/{CFG.studied_concepts()[0]}/final_features.csv"),
    output:
        results("stages/seed_{seed}/grid.parquet"),
    resources:
        **rule_resources("compare_stages", mem_mb=1000, runtime=30),
    params:
        layers=LAYERS,
        corners=CORNERS,
    script:
        "../workflow_scripts/compare_stages.py"


rule evaluate_transfer:
    """Measure what the same directions do when they are ablated at other stages of the model."""
    input:
        **{
            "models": [config_file(name) for name in CFG.stages.models],
            "weights": [file for name in CFG.stages.models for file in weight_files(name)],
        },
        **questions_of(CFG.ablation),
        dictionaries=dictionary_files(CFG.diff.adapted, "{seed}"),
        ranking=rules.rank_features.output.ranking,
        pools=rules.rank_features.output.pools,
    output:
        shown(
            "stages/seed_{seed}/{concept}/transfer.csv",
            "How sure are we",
            "transfer_table",
            table="Transfer over stages",
        ),
    threads: CFG.threads
    resources:
        **rule_resources("evaluate_transfer", mem_mb=3000, runtime=120),
    params:
        models=[named_subject(name) for name in CFG.stages.models],
        questions=lambda wildcards: question_sets(CFG.ablation.report_on),
        seed=CFG.seed,
        stage=lambda wildcards: {
            "layers": LAYERS,
            "features": CFG.stages.features,
            "bootstrap": CFG.ablation.bootstrap,
            "massive_ratio": CFG.extraction.massive_ratio,
        },
    script:
        "../workflow_scripts/evaluate_transfer.py"


def comparison_outputs(target):
    """Return the tables and figures of a target; none if it has no comparisons."""
    if not compared_cases(CFG, target):
        return []
    concepts = compared_concepts(CFG, target)
    return [
        *(results(f"comparisons/{target}/{concept}.csv") for concept in concepts),
        *(results(f"figures/{target}/{concept}/comparisons.svg") for concept in concepts),
        results(f"comparisons/{target}.md"),
    ]


def stage_outputs():
    """Return what the target `stages` makes in addition to its comparisons."""
    files = ["stages/seed_0/grid.parquet", "figures/stages/stage_grid.svg"] if CFG.stages.grid else []
    for concept in CFG.studied_concepts() if CFG.stages.models else []:
        files += [f"stages/seed_0/{concept}/transfer.csv", f"figures/stages/{concept}/transfer.svg"]
    return [results(file) for file in files]
