"""Whether models that were tuned still read plain text as the one before tuning does."""

from __future__ import annotations

import pandas as pd

from vlmdiff.summary.markdown import escape, number, table
from vlmdiff.summary.sections import Section


def describe_language(perplexity: pd.DataFrame, model: str, limit: float | None) -> Section:
    """Claim that the model under study kept the language; no lines if perplexity was not measured.

    Args:
        perplexity: PERPLEXITY; the first row is the model that the others are held against.
        model: the model under study.
        limit: of the ratio of perplexities; None if nothing was measured.
    """
    section = Section("General language")
    if perplexity.empty or limit is None:
        return section
    first = perplexity.iloc[0]
    studied = perplexity[perplexity["model"] == model]
    for _, row in studied[studied["model"] != first["model"]].iterrows():
        interval = f"[{row['ratio_low']:.3f}, {row['ratio_high']:.3f}]"
        kept = bool(row["ratio_high"] <= limit)
        verdict = "**kept**" if kept else "**not shown to be kept**"
        text = (
            f"Perplexity of {escape(model)} on {escape(row['dataset'])} is {row['ratio']:.3f} {interval} "
            f"times that of {escape(first['model'])}, and at most {limit:g} counts as kept: {verdict}."
        )
        section.claim(kept, text, f"{model} was not shown to read {row['dataset']} as {first['model']} does.")
    lines = [
        [
            escape(row["model"]),
            number(row["documents"]),
            number(row["tokens"]),
            f"{row['perplexity']:.2f}",
            f"{row['ratio']:.3f} [{row['ratio_low']:.3f}, {row['ratio_high']:.3f}]",
        ]
        for _, row in perplexity.iterrows()
    ]
    head = ["model", "texts", "tokens", "perplexity", f"of {escape(first['model'])}'s"]
    section.say("", *table(head, lines))
    return section
