"""What is reported on was not used before: compared by what the samples show."""

from vlmdiff.config.held_out import reported, used_before
from vlmdiff.config.schema import references

# Data sets with a key that names each.
REPORTED, USED_BEFORE = reported(references(CFG)), used_before(references(CFG))


rule hold_out:
    """List which samples of test data were not used before; early, as it may stop what would stop late."""
    input:
        samples=lambda wildcards: FILES.samples(wildcards.dataset),
        before=[FILES.samples(name) for name in sorted(USED_BEFORE)],
    output:
        shown("held_out/{dataset}.csv", "Models and data", "Held out", "held_out"),
    wildcard_constraints:
        dataset=one_of(REPORTED),
    priority: 50
    params:
        samples=lambda wildcards: CFG.dataset(wildcards.dataset).samples,
        before={name: CFG.dataset(name).samples for name in sorted(USED_BEFORE)},
        shared_images=CFG.held_out.shared_images,
        # For messages alone.
        named_by=not_compared(
            lambda wildcards: {"report": REPORTED[wildcards.dataset], "before": USED_BEFORE}
        ),
    script:
        "../workflow_scripts/hold_out.py"
