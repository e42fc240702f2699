"""What is reported on was not used before: compared by what the samples show."""


# It tells early what would stop a long run late.
rule hold_out:
    input:
        samples=lambda wildcards: samples_file(wildcards.dataset),
        before=[samples_file(name) for name in sorted(USED_BEFORE)],
    output:
        report(
            f"{RESULTS}/held_out/{{dataset}}.csv",
            caption="captions/held_out.rst",
            category="Data sets",
            labels={"table": "Held out", "data set": "{dataset}"},
        ),
    log:
        f"{RESULTS}/logs/hold_out/{{dataset}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/hold_out/{{dataset}}.tsv"
    wildcard_constraints:
        dataset=one_of(REPORTED),
    priority: 50
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("hold_out", mem_mb=2000, runtime=30),
    params:
        samples=lambda wildcards: CFG.dataset(wildcards.dataset).samples,
        before={name: CFG.dataset(name).samples for name in sorted(USED_BEFORE)},
        shared_images=CFG.held_out.shared_images,
        # For messages alone.
        named_by=not_compared(
            lambda wildcards: {"report": REPORTED[wildcards.dataset], "before": USED_BEFORE}
        ),
        code=code_digest("hold_out"),
    script:
        "../workflow_scripts/hold_out.py"
