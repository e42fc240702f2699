"""Controls, stages and sensitivity: other comparisons than the main one, and whether findings recur."""

from vlmdiff.config.cases import compared_cases, compared_concepts, described_cases, selection_rules
from vlmdiff.config.comparisons import CROSSCODER


rule match_seeds:
    """Match features over seeds: which of the findings recur."""
    input:
        dictionaries=[file for seed in SEEDS for file in FILES.dictionaries(CFG.diff.adapted, seed)],
        adapted=expand(results("features/main/seed_{seed}/adapted.parquet"), seed=SEEDS),
        final=[results(f"features/main/seed_{seed}/{{concept}}/final_features.csv") for seed in SEEDS],
    output:
        shown("features/main/recurrence/{concept}.csv", "How sure are we", "Recurrence", "recurrence"),
    params:
        layers=LAYERS,
    script:
        "../workflow_scripts/match_seeds.py"


def counted_on_test_data(name):
    """Return an input function: tables on a crosscoder's features, which fire by two models; none of others."""

    def tables(wildcards):
        if CFG.comparison(wildcards.comparison).method != CROSSCODER:
            return []
        return FILES.statistics(name, wildcards.comparison, wildcards.seed, [CFG.ablation.report_on.target])

    return tables


rule evaluate_selection:
    """Measure on test data what ablating the features of each selection rule does."""
    input:
        **checkpoint_of(compared_model),
        **questions_of(CFG.ablation),
        dictionaries=compared("adapted"),
        adapted=results(f"{FEATURES}/adapted.parquet"),
        contrast=results(f"{CONCEPT}/contrast.parquet"),
        lexical=results(f"{CONCEPT}/lexical.parquet"),
        statistics=counted_on_test_data("statistics"),
        totals=counted_on_test_data("totals"),
    output:
        shown(
            "interventions/comparisons/{comparison}/seed_{seed}/{concept}/selection.csv",
            "How sure are we",
            "Selection rules",
        ),
    threads: CFG.threads
    params:
        model=lambda wildcards: named_subject(compared_model(wildcards)),
        questions=lambda wildcards: question_sets(CFG.ablation.report_on),
        seed=CFG.seed,
        stage=lambda wildcards: {
            "layers": LAYERS,
            "unit": CFG.concepts[wildcards.concept].unit,
            "eps": CFG.comparison(wildcards.comparison).eps,
            "rules": selection_rules(CFG, wildcards.comparison),
            "sizes": CFG.ablation.selection_sizes,
            "draws": CFG.ablation.selection_draws,
            "random_draws": CFG.ablation.random_draws,
            "bootstrap": CFG.ablation.bootstrap,
            "massive_ratio": CFG.extraction.massive_ratio,
        },
    script:
        "../workflow_scripts/evaluate_selection.py"


def comparison_tables(name):
    """Return an input function: one table of each comparison of a target."""
    return lambda wildcards: [
        results(f"features/{comparison}/seed_{seed}/{name.format(**wildcards)}")
        for comparison, seed in compared_cases(CFG, wildcards.target)
    ]


def compared_selections(wildcards):
    """Return what ablating the features of a target's comparisons does."""
    files = products.selection_tables(CFG, compared_cases(CFG, wildcards.target), [wildcards.concept])
    return [results(file) for file in files]


rule summarise_comparisons:
    """Put all comparisons of a target side by side, for one concept."""
    input:
        thresholds=comparison_tables("thresholds.csv"),
        funnel=comparison_tables("{concept}/funnel.csv"),
        check=comparison_tables("{concept}/contrast_check.csv"),
        final=comparison_tables("{concept}/final_features.csv"),
        selection=compared_selections,
        dictionaries=lambda wildcards: [
            file
            for name, seed in compared_cases(CFG, wildcards.target)
            for file in FILES.dictionaries(CFG.comparison(name).adapted, seed)
        ],
    output:
        shown("comparisons/{target}/{concept}.csv", "How sure are we", "{target}", "comparisons"),
    params:
        entries=lambda wildcards: described_cases(CFG, wildcards.target, wildcards.concept),
        layers=LAYERS,
        data=reported_data(CFG.ablation),
    script:
        "../workflow_scripts/summarise_comparisons.py"


rule write_comparisons:
    """Write the comparisons of a target as one page."""
    input:
        comparisons=lambda wildcards: [
            results(f"comparisons/{wildcards.target}/{concept}.csv")
            for concept in compared_concepts(CFG, wildcards.target)
        ],
        accuracy=lambda wildcards: (
            [results("world/accuracy_controls.csv")] if wildcards.target == "controls" and CONTROLS else []
        ),
    output:
        shown("comparisons/{target}.md", "How sure are we", "{target}", "comparisons_page"),
    params:
        experiment=CFG.experiment,
        checkpoints=checkpoints(CFG, controls=True),
        ablated=CFG.ablation is not None,
    script:
        "../workflow_scripts/write_comparisons.py"


# The dictionaries of the stage grid.
CORNERS = {"base": CFG.diff.base, **CFG.stages.grid.corners()} if CFG.stages.grid else {}


rule compare_stages:
    """Measure how features turn along the edges of the stage grid: data first or model first."""
    input:
        **{corner: FILES.dictionaries(name, "{seed}") for corner, name in CORNERS.items()},
        adapted=results("features/main/seed_{seed}/adapted.parquet"),
        final=results(f"features/main/seed_{{seed}}/{CFG.studied_concepts()[0]}/final_features.csv"),
    output:
        results("stages/seed_{seed}/grid.parquet"),
    params:
        layers=LAYERS,
        corners=list(CORNERS),
    script:
        "../workflow_scripts/compare_stages.py"


rule evaluate_transfer:
    """Measure what the same directions do when they are ablated at other stages of the model."""
    input:
        **{
            "models": [FILES.model(name) for name in CFG.stages.models],
            "weights": [file for name in CFG.stages.models for file in FILES.weights(name)],
        },
        **questions_of(CFG.ablation),
        dictionaries=FILES.dictionaries(CFG.diff.adapted, "{seed}"),
        ranking=rules.rank_features.output.ranking,
        pools=rules.rank_features.output.pools,
    output:
        shown("stages/seed_{seed}/{concept}/transfer.csv", "How sure are we", "Transfer over stages"),
    threads: CFG.threads
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
