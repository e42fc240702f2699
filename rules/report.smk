"""The summary of the experiment in words and numbers."""


rule write_summary:
    input:
        accuracy=accuracy_tables(),
        held_out=[f"{RESULTS}/held_out/{name}.csv" for name in REPORTED],
        asked=asked_tables(),
        left_out=[f"{RESULTS}/activations/left_out.csv"],
        metrics=dictionary_metrics(),
        thresholds=expand(f"{RESULTS}/features/main/seed_{{seed}}/thresholds.csv", seed=SEEDS),
        funnel=[
            f"{RESULTS}/features/main/seed_{seed}/{concept}/funnel.csv"
            for concept in CFG.concepts
            for seed in seeds_of(CFG, concept)
        ],
        untuned=untuned_funnels(),
        ablation=all_ablation_tables(),
        scores=heads_tables("scores"),
        agreement=heads_tables("agreement"),
        head_ablation=heads_tables("head_ablation"),
        check=expand(
            f"{RESULTS}/features/main/seed_{{seed}}/{{concept}}/contrast_check.csv",
            seed=SEEDS,
            concept=CFG.studied_concepts(),
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
        code=code_digest("write_summary"),
    script:
        "../workflow_scripts/write_summary.py"


rule write_comparisons:
    input:
        comparisons=lambda wildcards: [
            f"{RESULTS}/comparisons/{wildcards.target}/{concept}.csv"
            for concept in compared_concepts(CFG, wildcards.target)
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
        ablated=CFG.ablation is not None,
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
