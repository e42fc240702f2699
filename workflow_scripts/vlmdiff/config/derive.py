"""Fill in what a configuration leaves out: models, data and concepts are enough.

docs/start/your_own_model.md lists what is derived. Values are plain, as YAML gives them, and not yet checked.
What the user wrote always wins; what is malformed is left as it is, for the schema to refuse.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from vlmdiff.config.base import LONGEST_NAME
from vlmdiff.config.concepts import COUNTS, TEXT_MATCHED, contrast_of
from vlmdiff.config.datasets import FolderDataset, TextDataset
from vlmdiff.config.derived_budgets import MOST_TOKENS, derive_budgets, is_share
from vlmdiff.config.families import LANGUAGE_MODEL
from vlmdiff.config.keys import first_problem
from vlmdiff.config.own_data import PHOTOS, OwnData
from vlmdiff.config.plain import Values, put_under, section

# Blocks of the decoder that are studied: so many, evenly spaced.
EVENLY = 8
# Neutral prompts of the lexical filter, the paper's.
PROMPTS = ["Describe this image.", "What do you see?", "Tell me about this picture."]
NONE = "none"


def derive(values: Mapping[str, Any], name: str | None = None) -> Values:
    """Return the configuration with every section that follows from others filled in.

    Args:
        values: plain values of the configuration; families of models are filled in.
        name: of the configuration's file, for `experiment` if it is left out.

    Raises:
        ValueError: `data` is wrong, or nothing tells which model is which; the message names the key.
    """
    if not isinstance(values, Mapping):
        return values
    values = copy.deepcopy(dict(values))
    if name is not None and (word := experiment_name(name)):
        values.setdefault("experiment", word)
    if values.get("data") is not None:
        derive_from_data(values)
    derive_lexical(values)
    derive_visual_datasets(values)
    derive_evaluation(values)
    derive_heads(values)
    derive_budgets(values)
    return values


def experiment_name(file: str) -> str:
    """Return the name of an experiment that is called like its config file, as far as folders may be."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", file).strip("_.-")[:LONGEST_NAME]


def reads_text_alone(model: Any) -> bool:
    """Tell whether an entry of `models` is a language model."""
    model = model if isinstance(model, dict) else {}
    return model.get("family") == LANGUAGE_MODEL or model.get("text_only") is True


def sees(model: Any) -> bool:
    """Tell whether an entry of `models` is a tuned model that sees."""
    return isinstance(model, dict) and not reads_text_alone(model) and model.get("untuned") is None


def model_of(values: Values, usual: str, fits: Callable[[Any], bool], what: str) -> str:
    """Return the one model of a kind: the only one, or the one that bears the usual name.

    Raises:
        ValueError: there is none, or several.
    """
    models = section(values, "models")
    if usual in models:
        # Without a family nothing tells what it is, and the schema asks for it.
        if not fits(models[usual]) and section(models, usual).get("family") is not None:
            raise ValueError(
                f"models.{usual}: found a model of family '{models[usual]['family']}', expected one that "
                f"{what}; correct the path, or name the model otherwise"
            )
        return usual
    found = [name for name, entry in models.items() if fits(entry)]
    if len(found) != 1:
        said = f"found {', '.join(found)}" if found else "found none"
        raise ValueError(f"models: {said}, expected one that {what}; name it `{usual}`")
    return found[0]


def own_data(values: Values) -> OwnData:
    """Return the section `data`; a path alone is that of the photos.

    Raises:
        ValueError: naming the key and what is wrong.
    """
    said = values["data"]
    try:
        return OwnData.model_validate({"photos": said} if isinstance(said, str) else said)
    except ValidationError as error:
        place, cause, found = first_problem(error, OwnData, place_of_data_set_key)
        raise ValueError(
            f"{'.'.join(['data', *place])}: {cause} (found: {found!r:.120}); expected a folder of photos, or "
            "{photos: FOLDER, text: FILE}"
        ) from None


def place_of_data_set_key(key: Any) -> str | None:
    """Say where a key of the data sets goes that follow from `data`; None if they have no such key."""
    for name, kind in (("photos", FolderDataset), ("text", TextDataset)):
        if key in kind.model_fields:
            return f"it is a key of a data set: write `datasets: {{ {name}: {{ {key}: … }} }}`"
    return None


def derive_from_data(values: Values) -> None:
    """Fill in data sets, dictionaries, the diff, and the ablation of the first concept."""
    data = own_data(values)
    values["data"] = data.model_dump()
    base = model_of(
        values, "base_lm", reads_text_alone, "reads text alone (family causal_lm, or text_only: true)"
    )
    vlm = model_of(values, "vlm", sees, "sees")
    entries = data.entries()
    put_under(values, "datasets", entries)
    if section(values, "datasets", PHOTOS).items() >= entries[PHOTOS].items():
        data.check_parts(entries[PHOTOS]["parts"])
    put_under(values, "datasets", parts_of(section(values, "datasets")))
    values.setdefault("layers", {"evenly": EVENLY})
    trained = {
        "base": {"initial": "random", "model": base, "dataset": "text_train"},
        "adapted": {"initial": "base", "model": vlm, "dataset": "train"},
        "null_text": {"initial": "base", "model": base, "dataset": "text_null"},
    }
    said = section(values, "dictionaries")
    # A published dictionary has no key of a trained one.
    put_under(values, "dictionaries", {k: v for k, v in trained.items() if "source" not in section(said, k)})
    put_under(values, "diff", {
        "model": vlm, "visual_datasets": ["validation"], "text_datasets": ["text_validation"],
    })  # fmt: skip
    for name, concept in section(values, "concepts").items():
        derive_concept(name, concept, data.groups())
    derive_ablation(values, data)


def parts_of(entries: Values) -> Values:
    """Return photos and text with their parts; without text the photos' own texts are read."""
    parts: Values = {
        part: {"kind": "subset", "of": "photos", "part": part} for part in ("train", "validation", "test")
    }
    corpus = section(entries, "text")
    for part in ("train", "null", "validation"):
        text = {"kind": "subset", "of": "text" if corpus else "photos", "part": part}
        share, samples = section(corpus, "parts").get(part, 0.0), corpus.get("samples")
        if not corpus:
            text["images"] = False
        elif is_share(share) and isinstance(samples, int) and samples <= MOST_TOKENS:
            text["samples"] = max(1, math.ceil(share * samples))
        parts[f"text_{part}"] = text
    return parts


def derive_concept(name: str, concept: Any, known: list[str]) -> None:
    """Hold groups of the validation part that a concept names against all others of it.

    Where values of a label are held against each other, they are sought in all groups if none is named.

    Raises:
        ValueError: it names a target too, something that is no group, or a group that no sample has.
    """
    if not isinstance(concept, dict):
        return
    if concept.get("groups") is None:
        if contrast_of(concept) == TEXT_MATCHED:
            concept.setdefault("target", {"dataset": "validation"})
        return
    groups = concept["groups"]
    if not isinstance(groups, list):
        remedy = "write [GROUP, GROUP]" if isinstance(groups, dict) else f"write [{groups}]"
        raise ValueError(
            f"concepts.{name}.groups: found {groups!r:.120}, expected a list of groups; {remedy}"
        )
    for group in groups:
        if not isinstance(group, str):
            raise ValueError(
                f"concepts.{name}.groups: found {group!r:.120}, expected text; YAML reads on, off, yes, no, "
                "null and numbers otherwise: put it in quotes"
            )
        if group not in known:
            near = get_close_matches(group, known, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ValueError(
                f"concepts.{name}.groups: found '{group}', expected some of {', '.join(known)}{hint}"
            )
    if both := concept.keys() & {"target", "baseline"}:
        raise ValueError(
            f"concepts.{name}.groups: found with `{'` and `'.join(sorted(both))}`, expected `groups` alone, "
            "or target and baseline; leave one out"
        )
    concept["target"] = {"dataset": "validation", "groups": concept["groups"]}
    if contrast_of(concept) == COUNTS:
        concept["baseline"] = {"dataset": "validation", "without": concept["groups"]}


def derive_ablation(values: Values, data: OwnData) -> None:
    """Rank features on the validation part and report on the test part: of the concept that is ablated first.

    Answers are scored among choices. Where all answers are open, nothing that scores them is derived.
    """
    if isinstance(ablation := values.get("ablation"), str):
        return
    found, count = data.open_answers()
    if found == count and ablation is None:
        values.update({stage: values.get(stage, NONE) for stage in ("ablation", "heads")})
        return
    said = section(values, "ablation").get("concepts", list(section(values, "concepts"))[:1])
    if isinstance(said, list) and said and (sets := concept_sets(values, said[0])):
        uses = {
            use: {"target": sets[f"target_{part}"], "control": sets[f"control_{part}"]}
            for use, part in (("rank_on", "validation"), ("report_on", "test"))
        }
        put_under(values, "ablation", {"concepts": said, **uses})


def concept_sets(values: Values, concept: Any) -> dict[str, str]:
    """Declare what a concept's questions are scored on, and return the names; none of one without `groups`.

    Returns:
        `target_validation`, `control_validation`, `target_test` and `control_test`, each with a name.
    """
    groups = section(values, "concepts", concept).get("groups") if isinstance(concept, str) else None
    if not isinstance(groups, list) or values.get("data") is None:
        return {}
    # Names that are taken by parts of the data are `text` and `general`.
    stem = (
        f"concept_{concept}" if concept in ("text", "general") else concept[: LONGEST_NAME // 2].rstrip("_")
    )
    control = "general" if concept == next(iter(section(values, "concepts"))) else f"not_{stem}"
    names, sets = {}, {}
    for part in ("validation", "test"):
        scored = {"kind": "subset", "of": "photos", "part": part, "scored": True}
        for side, start, chosen in (("target", stem, "groups"), ("control", control, "without")):
            names[f"{side}_{part}"] = name = f"{start}_{part}"
            sets[name] = scored | {chosen: groups}
    put_under(values, "datasets", sets)
    return names


def of_concepts(said: Any, derived: Any) -> dict[str, str]:
    """Return the data sets that were derived from groups of a concept, each with the key of the groups.

    Args:
        said: values as the user wrote them.
        derived: what `derive` made of them.
    """
    found = {}
    for concept, entry in section(said, "concepts").items():
        groups = section(entry).get("groups")
        for name, one in section(derived, "datasets").items() if groups is not None else ():
            chosen = (section(one).get("groups"), section(one).get("without"))
            if groups in chosen and name not in section(said, "datasets"):
                found.setdefault(name, f"concepts.{concept}.groups")
    return found


def derive_lexical(values: Values) -> None:
    """Filter with the paper's prompts where a concept asks for the filter and nothing is said of it."""
    concepts = section(values, "concepts").values()
    if values.get("data") is not None and any(
        isinstance(one, dict) and one.get("lexical", True) is True for one in concepts
    ):
        put_under(values, "lexical", {"prompts": PROMPTS})


def derive_visual_datasets(values: Values) -> None:
    """Measure visual energy on the data of all concepts, unless `diff` says otherwise."""
    diff = section(values, "diff")
    sides = [
        section(concept, side).get("dataset")
        for concept in section(values, "concepts").values()
        for side in (("target", "baseline") if contrast_of(concept) == COUNTS else ("target",))
    ]
    if diff and "visual_datasets" not in diff and all(isinstance(name, str) for name in sides):
        values["diff"] = diff | {"visual_datasets": list(dict.fromkeys(sides))}


def derive_evaluation(values: Values) -> None:
    """Score the dictionaries of the main comparison on the data that it is made on, unless told otherwise."""
    diff, dictionaries = section(values, "diff"), section(values, "dictionaries")
    base, adapted = diff.get("base", "base"), diff.get("adapted", "adapted")
    null = diff.get("null", "null_text")
    sets = []
    for names, model, datasets in (
        ([base, null], section(dictionaries, null).get("model"), diff.get("text_datasets")),
        ([base, adapted], diff.get("model", "vlm"), diff.get("visual_datasets")),
    ):
        if model and isinstance(datasets, list) and datasets:
            sets.append({"dictionaries": names, "model": model, "dataset": datasets[0]})
    if "evaluation" not in values and len(sets) == 2:
        values["evaluation"] = sets


def derive_heads(values: Values) -> None:
    """Trace the first ablated concept on the data of the ablation, where `heads` does not say otherwise.

    Of several traced concepts the first one's data serve.
    """
    ablation, ranked = section(values, "ablation"), section(values, "ablation", "rank_on")
    concepts = ablation.get("concepts")
    if not (isinstance(concepts, list) and concepts and {"target", "control"} <= ranked.keys()):
        return
    traced = section(values, "heads").get("concepts", concepts[:1])
    concept = traced[0] if isinstance(traced, list) and traced else concepts[0]
    derived = {"dataset": ranked["target"], "head_means": {"dataset": ranked["control"]}}
    derived["report_on"] = ablation.get("report_on")
    if concept != concepts[0]:
        if not (sets := concept_sets(values, concept)):
            return
        derived = {
            "dataset": sets["target_validation"],
            "head_means": {"dataset": sets["control_validation"]},
        }
        derived["report_on"] = {"target": sets["target_test"], "control": sets["control_test"]}
    put_under(values, "heads", {"concepts": traced, **derived})
