# Figures that say how sure the findings are.


rule plot_comparisons:
    input:
        comparisons=rules.summarise_comparisons.output[0],
    output:
        pdf=f"{FIGURES}/{{target}}/{{concept}}/comparisons.pdf",
        png=f"{FIGURES}/{{target}}/{{concept}}/comparisons.png",
        svg=report(
            f"{FIGURES}/{{target}}/{{concept}}/comparisons.svg",
            caption="captions/comparisons_figure.rst",
            category="How sure are we",
            labels={"figure": "{target}", "concept": "{concept}"},
        ),
    log:
        f"{RESULTS}/logs/plot_comparisons/{{target}}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_comparisons/{{target}}/{{concept}}.tsv"
    wildcard_constraints:
        target=one_of(TARGETS),
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("plot_comparisons", mem_mb=1000, runtime=5),
    params:
        ablated=CFG.ablation is not None,
        code=code_digest("plot_comparisons"),
    script:
        "../workflow_scripts/plot_comparisons.py"


rule plot_selection_rules:
    input:
        selection=default_selections,
    output:
        pdf=f"{FIGURES}/{{concept}}/selection_rules.pdf",
        png=f"{FIGURES}/{{concept}}/selection_rules.png",
        svg=report(
            f"{FIGURES}/{{concept}}/selection_rules.svg",
            caption="captions/selection_rules.rst",
            category="How sure are we",
            labels={"figure": "Selection rules", "concept": "{concept}"},
        ),
    log:
        f"{RESULTS}/logs/plot_selection_rules/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_selection_rules/{{concept}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("plot_selection_rules", mem_mb=1000, runtime=5),
    params:
        target=lambda wildcards: CFG.ablation.report_on.target,
        control=lambda wildcards: CFG.ablation.report_on.control,
        sizes=lambda wildcards: CFG.ablation.selection_sizes,
        rules=reported_rules(CFG),
        code=code_digest("plot_selection_rules"),
    script:
        "../workflow_scripts/plot_selection_rules.py"


rule plot_recurrence:
    input:
        recurrence=rules.match_seeds.output[0],
    output:
        pdf=f"{FIGURES}/{{concept}}/recurrence.pdf",
        png=f"{FIGURES}/{{concept}}/recurrence.png",
        svg=report(
            f"{FIGURES}/{{concept}}/recurrence.svg",
            caption="captions/recurrence_figure.rst",
            category="How sure are we",
            labels={"figure": "Recurrence over seeds", "concept": "{concept}"},
        ),
    log:
        f"{RESULTS}/logs/plot_recurrence/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_recurrence/{{concept}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("plot_recurrence", mem_mb=1000, runtime=5),
    params:
        code=code_digest("plot_recurrence"),
    script:
        "../workflow_scripts/plot_recurrence.py"


rule plot_stage_grid:
    input:
        grid=f"{RESULTS}/stages/seed_0/grid.parquet",
    output:
        pdf=f"{FIGURES}/stages/stage_grid.pdf",
        png=f"{FIGURES}/stages/stage_grid.png",
        svg=report(
            f"{FIGURES}/stages/stage_grid.svg",
            caption="captions/stage_grid.rst",
            category="How sure are we",
            labels={"figure": "Stage grid"},
        ),
    log:
        f"{RESULTS}/logs/plot_stage_grid.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_stage_grid.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("plot_stage_grid", mem_mb=1000, runtime=5),
    params:
        code=code_digest("plot_stage_grid"),
    script:
        "../workflow_scripts/plot_stage_grid.py"


rule plot_transfer:
    input:
        transfer=f"{RESULTS}/stages/seed_0/{{concept}}/transfer.csv",
    output:
        pdf=f"{FIGURES}/stages/{{concept}}/transfer.pdf",
        png=f"{FIGURES}/stages/{{concept}}/transfer.png",
        svg=report(
            f"{FIGURES}/stages/{{concept}}/transfer.svg",
            caption="captions/transfer.rst",
            category="How sure are we",
            labels={"figure": "Transfer over stages", "concept": "{concept}"},
        ),
    log:
        f"{RESULTS}/logs/plot_transfer/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_transfer/{{concept}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("plot_transfer", mem_mb=1000, runtime=5),
    params:
        target=lambda wildcards: CFG.ablation.report_on.target,
        control=lambda wildcards: CFG.ablation.report_on.control,
        code=code_digest("plot_transfer"),
    script:
        "../workflow_scripts/plot_transfer.py"
