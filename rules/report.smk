"""The summary of the experiment in words and numbers, and what it cost."""

from vlmdiff.config.cases import (
    compared_concepts,
    concept_seeds,
    headline_facts,
    reported_data,
    selection_facts,
)
from vlmdiff.config.figures import figures
from vlmdiff.config.omitted import omitted

# Everything that the default target makes, the costs of making it aside.
EXPERIMENT = [
    results("config.yaml"),
    results("summary.md"),
    *(results(f"figures/{name}.svg") for name in figures(CFG)),
    *default_selections(),
    *default_funnels(),
    *recurrence_tables(),
    *label_tables(),
    *truth_outputs(),
    *steering_tables(),
]


rule write_summary:
    """Write what was found, and how sure it is."""
    input:
        accuracy=ACCURACY,
        held_out=[results(f"held_out/{name}.csv") for name in REPORTED],
        asked=ASKED,
        left_out=[results("activations/left_out.csv")],
        metrics=METRICS,
        thresholds=expand(results("features/main/seed_{seed}/thresholds.csv"), seed=SEEDS),
        funnel=[
            results(f"features/main/seed_{seed}/{concept}/funnel.csv")
            for concept in CFG.concepts
            for seed in concept_seeds(CFG, concept)
        ],
        untuned=untuned_funnels(),
        ablation=all_ablation_tables(),
        scores=heads_tables("scores"),
        agreement=heads_tables("agreement"),
        head_ablation=heads_tables("head_ablation"),
        check=expand(
            results("features/main/seed_{seed}/{concept}/contrast_check.csv"),
            seed=SEEDS,
            concept=CFG.studied_concepts(),
        ),
        recurrence=recurrence_tables(),
        quality=truth_outputs(),
        selection=default_selections(),
        steering=steering_tables(),
        labels=label_tables(),
    output:
        shown("summary.md", "Summary", text="Summary"),
    params:
        names={
            "experiment": CFG.experiment,
            "model": CFG.diff.model,
            "adapted": CFG.diff.adapted,
            "rule": CFG.diff.rule,
            "ablation_data": reported_data(CFG.ablation),
            "heads_data": reported_data(CFG.heads),
            "steering_data": reported_data(CFG.steering),
            "checkpoints": checkpoints(CFG),
            "contrasts": {
                name: {"unit": one.unit, "fdr": one.fdr, "lexical": one.lexical}
                for name, one in CFG.concepts.items()
            },
            "selection": selection_facts(CFG),
            "omitted": omitted(CFG),
        },
        headline=headline_facts(CFG),
    script:
        "../workflow_scripts/write_summary.py"


rule write_comparisons:
    """Write the comparisons of a target as one page."""
    input:
        comparisons=lambda wildcards: [
            results(f"comparisons/{wildcards.target}/{concept}.csv")
            for concept in compared_concepts(CFG, wildcards.target)
        ],
        accuracy=lambda wildcards: control_accuracies(wildcards.target),
    output:
        shown("comparisons/{target}.md", "How sure are we", caption="comparisons_page", text="{target}"),
    wildcard_constraints:
        target=one_of(TARGETS),
    params:
        experiment=CFG.experiment,
        checkpoints=checkpoints(CFG, controls=True),
        ablated=CFG.ablation is not None,
    script:
        "../workflow_scripts/write_comparisons.py"


rule write_provenance:
    """Write where the results of the experiment come from."""
    input:
        EXPERIMENT,
    output:
        shown("provenance.md", "Summary", text="Where it comes from"),
    resources:
        **rule_resources("write_provenance", mem_mb=500, runtime=5),
    script:
        "../workflow_scripts/write_provenance.py"


rule summarise_costs:
    """Sum what the jobs of each rule took."""
    input:
        EXPERIMENT,
    output:
        shown("costs.csv", "Costs", table="Costs by rule"),
    params:
        folder=results("benchmarks"),
    script:
        "../workflow_scripts/summarise_costs.py"


rule plot_costs:
    """Draw what the jobs of each rule took."""
    input:
        costs=rules.summarise_costs.output[0],
    output:
        **figure("costs", "Costs", "Costs by rule", "costs_figure"),
    script:
        "../workflow_scripts/plot_costs.py"
