"""The named targets beside the default one: controls, stages, sensitivity."""

TARGETS = ["controls", "stages", "sensitivity"]
SELECTION_RULES = ["contrast", "contrast_visual", "contrast_lexical", "contrast_adapted", "full"]


def comparison_entries(target):
    """Return (comparison, seed) of a target's comparisons, the main one of the same seeds first.

    A model that was never tuned is a control, also where the default run makes its comparison.
    """
    further = [
        (name, seed)
        for name, one in CFG.comparisons.items()
        if one.target == target or (target == "controls" and name == CFG.diff.untuned)
        for seed in range(one.seeds)
    ]
    return [*((MAIN, seed) for seed in sorted({seed for _, seed in further})), *further]


def comparison_tables(name):
    """Return an input function: one table of each comparison of a target."""

    def tables(wildcards):
        shared = name == "thresholds.csv"
        return [
            f"{RESULTS}/features/{comparison}/seed_{seed}/"
            + (name if shared else f"{wildcards.concept}/{name}")
            for comparison, seed in comparison_entries(wildcards.target)
        ]

    return tables


def comparison_selections(wildcards):
    """Return what ablating the features of each comparison of a target does; none without ablation."""
    if CFG.ablation is None:
        return []
    return [
        f"{RESULTS}/interventions/comparisons/{comparison}/seed_{seed}/{wildcards.concept}/selection.csv"
        for comparison, seed in comparison_entries(wildcards.target)
    ]


def comparison_dictionaries(wildcards):
    """Return the adapted dictionary of each comparison of a target, layer by layer."""
    entries = comparison_entries(wildcards.target)
    return [file for name, seed in entries for file in dictionary_files(CFG.comparison(name).adapted, seed)]


def comparison_params(wildcards):
    """Return the plain values that describe each comparison of a target."""
    return [
        {
            "comparison": name,
            "about": "the main comparison" if name == MAIN else CFG.comparisons[name].about,
            "rule": CFG.comparison(name).rule,
            "base": CFG.comparison(name).base,
            "untuned": CFG.models[CFG.comparison(name).model].untuned is not None,
            "seed": seed,
            "unit": CFG.concepts[wildcards.concept].unit,
        }
        for name, seed in comparison_entries(wildcards.target)
    ]


def compared_concepts(target):
    """Return the concepts for which a target's comparisons are made: the studied ones, and those that ask so."""
    concepts = CFG.concepts.items()
    return [name for name, one in concepts if target in one.compared or name in CFG.studied_concepts()]


def comparison_outputs(target):
    """Return the tables and figures of a target; none if it has no comparisons."""
    if not comparison_entries(target):
        return []
    return [
        *(f"{RESULTS}/comparisons/{target}/{concept}.csv" for concept in compared_concepts(target)),
        *(f"{FIGURES}/{target}/{concept}/comparisons.svg" for concept in compared_concepts(target)),
        f"{RESULTS}/comparisons/{target}.md",
    ]


def untuned_funnels():
    """Return the funnels of the model that was never tuned, for studied concepts and those that are compared."""
    if CFG.diff.untuned is None:
        return []
    concepts = [name for name, one in CFG.concepts.items() if one.compared or name in CFG.studied_concepts()]
    seeds = range(CFG.comparisons[CFG.diff.untuned].seeds)
    return expand(
        f"{RESULTS}/features/{CFG.diff.untuned}/seed_{{seed}}/{{concept}}/funnel.csv",
        seed=seeds,
        concept=concepts,
    )


def selection_rules(comparison):
    """Return the rules whose features are ablated: all of the main comparison, the full one of the others."""
    return SELECTION_RULES if comparison == MAIN else ["full"]


def reported_rules():
    """Return the rules of every comparison of the default target."""
    return {name: selection_rules(name) for name in (MAIN, *dict(default_comparisons()))}


def selection_params():
    """Return by which sizes selection rules are compared, and which rules; nothing without ablation."""
    if CFG.ablation is None:
        return {}
    return {"sizes": CFG.ablation.selection_sizes, "rules": reported_rules()}


def default_selections(wildcards=None):
    """Return the selection tables of the default target: main and comparisons of `all` in which a model was tuned.

    None without ablation.
    """
    if CFG.ablation is None:
        return []
    return [
        f"{RESULTS}/interventions/comparisons/{comparison}/seed_{seed}/{concept}/selection.csv"
        for comparison, seed in ((MAIN, 0), *default_comparisons())
        for concept in CFG.ablation.concepts
    ]


def default_comparisons():
    """Return (comparison, seed) of the comparisons of `all` in which a model was tuned."""
    return [
        (name, seed)
        for name, one in CFG.comparisons.items()
        if one.target == "all" and name != CFG.diff.untuned
        for seed in range(one.seeds)
    ]


def default_funnels():
    """Return what comparisons of `all` find, where nothing is ablated that would ask for it."""
    if CFG.ablation is not None:
        return []
    return [
        f"{RESULTS}/features/{comparison}/seed_{seed}/{concept}/funnel.csv"
        for comparison, seed in default_comparisons()
        for concept in CFG.studied_concepts()
    ]


def corner_files(corner):
    """Return an input function: the dictionaries of a corner of the stage grid."""

    def files(wildcards):
        if CFG.stages.grid is None:
            return []
        corners = {"base": CFG.diff.base, **CFG.stages.grid.corners()}
        return dictionary_files(corners[corner], wildcards.seed)

    return files


def stage_outputs():
    """Return what the target `stages` makes beside its comparisons."""
    files = []
    if CFG.stages.grid is not None:
        files += [f"{RESULTS}/stages/seed_0/grid.parquet", f"{FIGURES}/stages/stage_grid.svg"]
    if CFG.stages.models:
        for concept in CFG.studied_concepts():
            files += [
                f"{RESULTS}/stages/seed_0/{concept}/transfer.csv",
                f"{FIGURES}/stages/{concept}/transfer.svg",
            ]
    return files


def recurrence_tables():
    """Return the tables of recurrence over seeds; none for a single seed."""
    return (
        expand(f"{RESULTS}/features/main/recurrence/{{concept}}.csv", concept=CFG.studied_concepts())
        if CFG.seeds > 1
        else []
    )
