"""The summary of the experiment in words and numbers."""


rule write_summary:
    input:
        accuracy=accuracy_tables(),
        held_out=[f"{RESULTS}/held_out/{name}.csv" for name in REPORTED],
        asked=[asked_table()],
        left_out=[f"{RESULTS}/activations/left_out.csv"],
        metrics=dictionary_metrics(),
        thresholds=expand(f"{RESULTS}/features/main/seed_{{seed}}/thresholds.csv", seed=SEEDS),
        funnel=[
            f"{RESULTS}/features/main/seed_{seed}/{concept}/funnel.csv"
            for concept in CFG.concepts
            for seed in concept_seeds(concept)
        ],
        untuned=untuned_funnels(),
        ablation=expand(ablation_tables(), seed=SEEDS, concept=CFG.ablation.concepts),
        scores=expand(f"{RESULTS}/heads/seed_{{seed}}/{CFG.heads.concept}/scores.csv", seed=SEEDS),
        agreement=expand(f"{RESULTS}/heads/seed_{{seed}}/{CFG.heads.concept}/agreement.csv", seed=SEEDS),
        head_ablation=expand(
            f"{RESULTS}/heads/seed_{{seed}}/{CFG.heads.concept}/head_ablation.csv", seed=SEEDS
        ),
        check=expand(
            f"{RESULTS}/features/main/seed_{{seed}}/{{concept}}/contrast_check.csv",
            seed=SEEDS,
            concept=CFG.ablation.concepts,
        ),
        recurrence=recurrence_tables(),
        quality=truth_outputs(),
        selection=default_selections(),
        steering=steering_tables(),
        labels=label_tables(),
    output:
        report(
            f"{RESULTS}/summary.md",
            caption="captions/summary.rst",
            category="Summary",
            labels={"text": "Summary"},
        ),
    log:
        f"{RESULTS}/logs/write_summary.log",
    benchmark:
        f"{RESULTS}/benchmarks/write_summary.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("write_summary", mem_mb=1000, runtime=5),
    params:
        names={
            "experiment": CFG.experiment,
            "model": CFG.diff.model,
            "adapted": CFG.diff.adapted,
            "rule": CFG.diff.rule,
            "ablation_data": [CFG.ablation.report_on.target, CFG.ablation.report_on.control],
            "heads_data": [CFG.heads.report_on.target, CFG.heads.report_on.control],
            "steering_data": steering_data(),
            "checkpoints": checkpoints(CFG),
            "contrasts": {name: {"unit": one.unit, "fdr": one.fdr} for name, one in CFG.concepts.items()},
            "selection": {"sizes": CFG.ablation.selection_sizes, "rules": reported_rules()},
        },
        headline={
            "concept": CFG.ablation.concepts[0],
            "scope": CFG.ablation.headline.scope,
            "size": CFG.ablation.headline.size,
            "measure": CFG.ablation.headline.measure,
            "concepts": CFG.ablation.concepts,
            "scopes": CFG.ablation.scopes,
            "sizes": CFG.ablation.set_sizes,
            "seeds": CFG.seeds,
        },
        code=code_digest("write_summary"),
    script:
        "../workflow_scripts/write_summary.py"


rule write_comparisons:
    input:
        comparisons=lambda wildcards: [
            f"{RESULTS}/comparisons/{wildcards.target}/{concept}.csv"
            for concept in compared_concepts(wildcards.target)
        ],
        accuracy=lambda wildcards: control_accuracies(wildcards.target),
    output:
        report(
            f"{RESULTS}/comparisons/{{target}}.md",
            caption="captions/comparisons_page.rst",
            category="How sure are we",
            labels={"text": "{target}"},
        ),
    log:
        f"{RESULTS}/logs/write_comparisons/{{target}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/write_comparisons/{{target}}.tsv"
    wildcard_constraints:
        target=one_of(TARGETS),
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("write_comparisons", mem_mb=1000, runtime=5),
    params:
        experiment=CFG.experiment,
        checkpoints=checkpoints(CFG, controls=True),
        code=code_digest("write_comparisons"),
    script:
        "../workflow_scripts/write_comparisons.py"


rule write_provenance:
    input:
        experiment_outputs(),
    output:
        report(
            f"{RESULTS}/provenance.md",
            caption="captions/provenance.rst",
            category="Summary",
            labels={"text": "Where it comes from"},
        ),
    log:
        f"{RESULTS}/logs/write_provenance.log",
    benchmark:
        f"{RESULTS}/benchmarks/write_provenance.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("write_provenance", mem_mb=500, runtime=5),
    params:
        code=code_digest("write_provenance"),
    script:
        "../workflow_scripts/write_provenance.py"


rule summarise_costs:
    input:
        experiment_outputs(),
    output:
        report(
            f"{RESULTS}/costs.csv",
            caption="captions/costs.rst",
            category="Costs",
            labels={"table": "Costs by rule"},
        ),
    log:
        f"{RESULTS}/logs/summarise_costs.log",
    benchmark:
        f"{RESULTS}/benchmarks/summarise_costs.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("summarise_costs", mem_mb=1000, runtime=5),
    params:
        folder=f"{RESULTS}/benchmarks",
        code=code_digest("summarise_costs"),
    script:
        "../workflow_scripts/summarise_costs.py"


rule plot_costs:
    input:
        costs=rules.summarise_costs.output[0],
    output:
        pdf=f"{FIGURES}/costs.pdf",
        png=f"{FIGURES}/costs.png",
        svg=report(
            f"{FIGURES}/costs.svg",
            caption="captions/costs_figure.rst",
            category="Costs",
            labels={"figure": "Costs by rule"},
        ),
    log:
        f"{RESULTS}/logs/plot_costs.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_costs.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("plot_costs", mem_mb=1000, runtime=5),
    params:
        code=code_digest("plot_costs"),
    script:
        "../workflow_scripts/plot_costs.py"
