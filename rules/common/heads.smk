"""What tracing features to heads needs of the configuration."""


def traced_samples():
    """Return which samples are traced to heads, their path aside."""
    return {
        "samples": CFG.heads.samples,
        "mean_samples": CFG.heads.mean_samples,
        "batch_tokens": CFG.extraction.batch_tokens,
    }
