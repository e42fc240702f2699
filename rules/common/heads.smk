"""What tracing features to heads needs of the configuration."""


def traced_samples(wildcards):
    """Return which samples are traced to heads, their path aside."""
    return {
        "samples": CFG.heads.samples,
        "mean_samples": CFG.heads.mean_samples,
        "batch_tokens": CFG.extraction.batch_tokens,
    }


def heads_tables(name):
    """Return one table of the traced concept for every seed; none if no feature is traced."""
    if CFG.heads is None:
        return []
    return [f"{RESULTS}/heads/seed_{seed}/{CFG.heads.concept}/{name}.csv" for seed in SEEDS]
