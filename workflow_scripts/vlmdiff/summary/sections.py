"""The sections on models, dictionaries, adapted features and concepts."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from vlmdiff.summary.criteria import ACCURACY_GOAL, NULL_SHARE, at_chance
from vlmdiff.summary.text import bracketed, escape, number, percent, table

STAGES = ("all", "visual", "adapted", "contrast", "adapted_and_contrast", "final")


@dataclass
class Section:
    """A chapter of the summary: its lines, and the claims that did not hold."""

    title: str
    lines: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    claims: int = 0

    def say(self, *lines: str) -> None:
        """Add a paragraph."""
        self.lines += [*lines, ""]

    def claim(self, holds: bool, text: str, otherwise: str) -> None:
        """Add what was found; a claim that does not hold is listed again at the end."""
        self.claims += 1
        self.say(text if holds else otherwise)
        if not holds:
            self.failed.append(otherwise)


def accuracy_table(accuracy: pd.DataFrame) -> list[str]:
    """Return a table with a line per data set and group, a column per model and condition."""
    rows = accuracy.assign(
        who=[
            f"{escape(model)}, {escape(how)}" for model, how in zip(accuracy["model"], accuracy["condition"])
        ],
        cell=[bracketed(*values) for values in accuracy[["accuracy", "ci_low", "ci_high"]].to_numpy()],
    )
    wide = rows.pivot_table(
        index=["dataset", "group"], columns="who", values="cell", aggfunc="first", sort=False
    )
    chance = rows.groupby(["dataset", "group"])["chance"].mean()
    lines = [
        [*map(escape, key), percent(chance[key]), *cells]
        for key, cells in zip(wide.index, wide.fillna("").to_numpy())
    ]
    return table(("data", "group", "chance", *wide.columns), lines)


def judge_model(section: Section, accuracy: pd.DataFrame, row: pd.Series, model: str, source: str) -> None:
    """Hold one accuracy against the goal, or a control against chance; snapshots are only listed."""
    who = f"{escape(row['model'])} ({escape(row['condition'])}) on {escape(row['dataset'])}"
    found = f"{bracketed(row['accuracy'], row['ci_low'], row['ci_high'])} %, n = {row['n']}"
    if row["model"] == model and row["condition"] == "image":
        same = [row[key] for key in ("model", "condition", "dataset")]
        kinds = accuracy[
            accuracy["group"].ne("all") & accuracy[["model", "condition", "dataset"]].eq(same).all(axis=1)
        ]
        reached = int((kinds["accuracy"] >= ACCURACY_GOAL).sum())
        goal = f"{100 * ACCURACY_GOAL:.0f} %"
        text = (
            f"{who}: {found}, {reached} of {len(kinds)} groups at {goal} or more; the goal is {goal} of all"
        )
        holds = row["accuracy"] >= ACCURACY_GOAL
        section.claim(holds, f"{text}, which it reaches.", f"{text}, which it **misses** ({source}).")
    elif not row["model"].startswith(f"{model}_"):
        text = f"Control {who}: {found}; chance is {percent(row['chance'])}"
        holds = at_chance(row["accuracy"], row["chance"])
        section.claim(holds, f"{text}: at chance.", f"{text}: **not at chance** ({source}).")


def describe_models(accuracy: pd.DataFrame, model: str, datasets: list[str], source: str) -> Section:
    """Say whether the model answers with its images, and only with them.

    Args:
        accuracy: ACCURACY.
        model: the fine-tuned model.
        datasets: test data on which the claims are made.
        source: file of the table.
    """
    section = Section("Models")
    whole = accuracy[accuracy["group"].eq("all") & accuracy["dataset"].isin(datasets)]
    if whole.empty:
        section.claim(False, "", f"No model was evaluated on {escape(', '.join(datasets))} ({source}).")
        return section
    for _, row in whole.iterrows():
        judge_model(section, accuracy, row, model, source)
    # Snapshots without their images are in the table file; here they would only make the rows longer.
    snapshot_control = accuracy["model"].str.startswith(f"{model}_") & accuracy["condition"].ne("image")
    heading = f"Accuracies in per cent, with Wilson 95 % intervals (all of them in `{source}`):"
    section.say(heading, "", *accuracy_table(accuracy[~snapshot_control]))
    return section


def describe_dictionaries(metrics: pd.DataFrame, warm: str, source: str) -> Section:
    """Give FVU, L0 and dead features, and whether a warm start beats a random one.

    Args:
        metrics: DICTIONARY_METRICS.
        warm: the dictionary that was fine-tuned from the base.
        source: file of the table.
    """
    section = Section("Dictionaries")
    final = metrics[(metrics["snapshot"] == 100) & (metrics["n_tokens"] > 0)]
    if final.empty:
        section.claim(False, "", f"No dictionary was evaluated ({source}).")
        return section
    keys = ["dictionary", "model", "dataset", "tokens"]
    grouped = final.groupby(keys, sort=False)
    rows = [
        [
            *map(escape, key), f"{number(part['fvu'].mean())} ({number(part['fvu'].min())} to "
            f"{number(part['fvu'].max())})", number(part["l0"].mean()), number(part["dead"].mean()),
        ]
        for key, part in grouped
    ]  # fmt: skip
    section.say(f"Means over layers and seeds, range in parentheses (from `{source}`):")
    header = ("dictionary", "model", "data", "tokens", "FVU", "L0", "dead a layer")
    section.say(*table(header, rows))
    compare_starts(section, final, warm, source)
    return section


def compare_starts(section: Section, final: pd.DataFrame, warm: str, source: str) -> None:
    """Compare the warm start with random starts (no cosine with a start) on the same text tokens."""
    rows = final[final["tokens"] == "text"]
    mine = rows[rows["dictionary"] == warm]
    keys = ["seed", "layer", "model", "dataset"]
    for name, other in rows[rows["cos_initial"].isna()].groupby("dictionary"):
        both = mine.merge(other, on=keys, suffixes=("", "_other"))
        if len(both):
            wins = int((both["fvu"] < both["fvu_other"]).sum())
            text = (
                f"On text tokens {escape(warm)} (warm start) explains more variance than {escape(name)} "
                f"(random start) in {wins} of {len(both)} comparisons"
            )
            section.claim(wins > len(both) / 2, f"{text}.", f"{text}: **no advantage** ({source}).")


def describe_adapted(thresholds: pd.DataFrame, rule: str, source: str) -> Section:
    """Give what both rules select and what they would select in the null.

    Args:
        thresholds: THRESHOLDS of all seeds.
        rule: the rule of the config.
        source: file of the table.
    """
    section = Section("Adapted features")
    rows = [
        [row.seed, row.rule, number(row.tau), row.features, row.visual, row.adapted, row.null_adapted,
         percent(row.null_false_positive_rate)]
        for row in thresholds.itertuples(index=False)
    ]  # fmt: skip
    header = ("seed", "rule", "tau", "features", "visual", "adapted", "adapted in the null", "null's rate")
    section.say(f"Later stages use the {rule} rule (from `{source}`).", "", *table(header, rows))
    for row in thresholds.itertuples(index=False):
        text = (
            f"Seed {row.seed}, {row.rule} rule: {row.adapted} adapted features; the null would give "
            f"{row.null_adapted}, {percent(row.null_false_positive_rate)} of the visually active ones"
        )
        holds = row.adapted > 0 and row.null_adapted <= NULL_SHARE * row.adapted
        section.claim(
            holds, f"{text}.", f"{text}: **multimodal and null rotation are not separated** ({source})."
        )
    return section


def describe_concepts(funnel: pd.DataFrame, source: str) -> Section:
    """Give the funnel of every concept.

    Args:
        funnel: FUNNEL of all concepts and seeds.
        source: file of the table.
    """
    section = Section("Concepts")
    totals = funnel[funnel["layer"] < 0]
    rows = []
    for (concept, seed), part in totals.groupby(["concept", "seed"], sort=False):
        counts = part.set_index("stage")["features"].reindex(STAGES).fillna(0).astype(int)
        rows.append([escape(concept), seed, *counts])
        text = f"Concept {escape(concept)}, seed {seed}: {counts['final']} features pass every filter"
        section.claim(counts["final"] > 0, f"{text}.", f"{text}: **nothing to intervene on** ({source}).")
    header = ("concept", "seed", *(stage.replace("_", " ") for stage in STAGES))
    section.say(f"Features left by each filter (from `{source}`):", "", *table(header, rows))
    return section
