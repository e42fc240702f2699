"""The whole configuration and its checks across sections."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated

from pydantic import BeforeValidator, Field, PrivateAttr, model_validator

from vlmdiff.config.amounts import check_amounts
from vlmdiff.config.analysis import AblationConfig, DiffConfig, HeadsConfig, LexicalConfig, SteeringConfig
from vlmdiff.config.base import Count, Name, OrNone, Section
from vlmdiff.config.budgets import ArchitectureConfig, Budget, check_losses
from vlmdiff.config.causal import causal_references, check_chosen, check_needs
from vlmdiff.config.comparable import check_budgets, check_models, check_numbering
from vlmdiff.config.comparisons import MAIN, ComparisonConfig, StagesConfig
from vlmdiff.config.concepts import ConceptConfig
from vlmdiff.config.datasets import Dataset
from vlmdiff.config.depth import Layers, studied_layers
from vlmdiff.config.dictionaries import DictionaryStage, EvaluationSet, PublishedDictionary, Stage
from vlmdiff.config.drifts import dictionaries_of, further_models
from vlmdiff.config.explorer import ExplorerConfig
from vlmdiff.config.held_out import HeldOutConfig, check_held_out
from vlmdiff.config.labels import LabellingConfig, LabelsConfig, check_labelling
from vlmdiff.config.lowered import as_written
from vlmdiff.config.methods import check_methods
from vlmdiff.config.nulls import check_nulls
from vlmdiff.config.overlap import check_concepts
from vlmdiff.config.own_data import OwnData
from vlmdiff.config.perplexity import PerplexityConfig
from vlmdiff.config.scoreboard import ScoreboardConfig, check_scoreboard, scoreboard_references
from vlmdiff.config.subjects import ExtractionConfig, ModelConfig
from vlmdiff.config.subsets import check_subsets, sources
from vlmdiff.config.untuned import check_untuned
from vlmdiff.config.world import WorldConfig, WorldDataset
from vlmdiff.config.world_use import check_world

# What is shipped or trained before any control model.


class Config(Section):
    """One experiment."""

    experiment: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64, description="Name of the results folder."
    )
    seed: int = Field(0, ge=0, description="From it every job derives its own seed.")
    seeds: Count = Field(1, description="How many seeds of each dictionary.")
    threads: Count = Field(1, description="Threads of a numerical job.")
    layers: Layers = Field(
        description="Decoder blocks: a list, counted from 0; `all`; or `{evenly: N}`, N evenly spaced ones, "
        "the last included (all if there are fewer)."
    )
    models: dict[Name, ModelConfig] = Field(min_length=1, description="Models under study, by name.")
    data: str | OwnData | None = Field(
        None,
        description="Your own photos, and text if you have some: a folder, or `photos` and `text`. Data "
        "sets, dictionaries and all that is asked of them follow from it (docs/start/your_own_model.md).",
    )
    datasets: dict[Name, Dataset] = Field(
        {}, description="Data sets, by name, in addition to the built-in world's."
    )
    world: WorldConfig | None = Field(None, description="The built-in world, if the experiment uses it.")
    extraction: ExtractionConfig = Field(ExtractionConfig(), description="How activations are stored.")
    architecture: ArchitectureConfig = Field(ArchitectureConfig(), description="Shape of the dictionaries.")
    dictionaries: dict[Name, Stage] = Field(min_length=1, description="Dictionary stages, by name.")
    evaluation: Annotated[list[EvaluationSet], OrNone(list)] = Field(
        [], description="What dictionaries are scored on; `none`: they are not."
    )
    perplexity: Annotated[PerplexityConfig | None, OrNone()] = Field(
        None, description="Whether models still read plain text as before; left out: `none`."
    )
    diff: DiffConfig = Field(description="What is compared, and when a feature counts as adapted.")
    comparisons: dict[Name, ComparisonConfig] = Field(
        {},
        description="Further comparisons, by name: controls, stages, other choices "
        "(docs/understand/controls.md).",
    )
    stages: StagesConfig = Field(StagesConfig(), description="The stage grid and transfer over stages.")
    concepts: dict[Name, ConceptConfig] = Field(min_length=1, description="Concepts, by name.")
    lexical: Annotated[LexicalConfig, OrNone(LexicalConfig)] = Field(
        LexicalConfig(), description="The lexical filter; `none` where no concept has `lexical: true`."
    )
    held_out: HeldOutConfig = Field(HeldOutConfig(), description="What reported data may share with others.")
    ablation: Annotated[AblationConfig | None, OrNone()] = Field(
        None, description="Causal evaluation of features; left out: `none`."
    )
    heads: Annotated[HeadsConfig | None, OrNone()] = Field(
        None, description="Tracing features to attention heads (needs `ablation`); left out: `none`."
    )
    steering: Annotated[SteeringConfig | None, OrNone()] = Field(
        None, description="Steering by directions (needs `ablation`); left out: `none`."
    )
    scoreboard: Annotated[ScoreboardConfig | None, OrNone()] = Field(
        None, description="Methods side by side (target `scoreboard`); left out: `none`."
    )
    labels: LabelsConfig = Field(LabelsConfig(), description="Labels of final features.")
    labelling: Annotated[LabellingConfig | None, OrNone()] = Field(
        None, description="Endpoint that describes features (target `descriptions`); left out: `none`."
    )
    explorer: Annotated[ExplorerConfig | None, OrNone()] = Field(
        ExplorerConfig(), description="A page of all features; left out: `none`."
    )
    resources: Annotated[dict[str, dict[str, int | str]], BeforeValidator(check_amounts)] = Field(
        {},
        description="Resources of rules, by rule, in place of the built-in world's: mem_mb, runtime, gpu …",
    )
    # Data sets that stand for groups, each with the key at which the groups were written.
    _lowered: dict[str, str] = PrivateAttr(default_factory=dict)

    def lowered_from(self, written: dict[str, str]) -> Config:
        """Return it with the keys at which groups were written that became data sets."""
        found = self.model_copy()
        found._lowered = written
        return found

    def as_written(self, message: str) -> str:
        """Return a message with keys as the user wrote them."""
        return as_written(message, self._lowered)

    def comparison(self, name: str) -> DiffConfig:
        """Return what a comparison compares; `main` is the section `diff`."""
        return self.diff if name == MAIN else self.comparisons[name].diff(self.diff)

    def concept(self, name: str, comparison: str) -> ConceptConfig:
        """Return a concept as a comparison sees it."""
        concept = self.concepts[name]
        return concept if comparison == MAIN else self.comparisons[comparison].concept(concept)

    def studied_concepts(self) -> list[str]:
        """Return the concepts that are studied in all seeds: those that are ablated, all if none is."""
        return list(self.concepts) if self.ablation is None else self.ablation.concepts

    def all_comparisons(self) -> dict[str, DiffConfig]:
        """Return the main comparison and all further ones."""
        return {name: self.comparison(name) for name in (MAIN, *self.comparisons)}

    def shape(self, dictionary: str) -> ArchitectureConfig:
        """Return the architecture of a dictionary that is trained here."""
        return self.trained()[dictionary].architecture or self.architecture

    def budget(self, dictionary: str) -> Budget | None:
        """Return how a dictionary is trained, or how its authors did; None if that is not declared."""
        stage = self.dictionaries[dictionary]
        return stage if isinstance(stage, DictionaryStage) else stage.budget

    def trained(self) -> dict[str, DictionaryStage]:
        """Return the dictionaries that are trained here, as opposed to published ones."""
        return {
            name: stage for name, stage in self.dictionaries.items() if isinstance(stage, DictionaryStage)
        }

    def published(self) -> dict[str, PublishedDictionary]:
        """Return the dictionaries that are imported, as opposed to trained ones."""
        return {
            name: entry for name, entry in self.dictionaries.items() if isinstance(entry, PublishedDictionary)
        }

    def default_dictionaries(self) -> dict[str, int]:
        """Return the dictionaries that the default target trains, each with its number of seeds."""
        found = dict.fromkeys([self.diff.base, self.diff.adapted, self.diff.null], self.seeds)
        if self.diff.null_check is not None:
            found[self.diff.null_check] = 1
        for comparison in self.comparisons.values():
            if comparison.target == "all":
                diff = comparison.diff(self.diff)
                for name in dictionaries_of(diff).values():
                    found.setdefault(name, min(comparison.seeds, self.seeds))
        for entry in self.evaluation:
            for name in entry.dictionaries:
                found[name] = max(found.get(name, 0), min(entry.seeds or self.seeds, self.seeds))
        for name, seeds in list(found.items()):
            for parent in self.ancestors(name):
                found[parent] = max(found.get(parent, 0), seeds)
        return {name: seeds for name, seeds in found.items() if name in self.trained()}

    def dataset(self, name: str) -> Dataset | WorldDataset:
        """Return a data set's entry, wherever it is declared."""
        return self.all_datasets()[name]

    def world_datasets(self) -> dict[str, WorldDataset]:
        """Return the built-in world's data sets, without those in whose place the user put others."""
        entries = self.world.datasets.items() if self.world else []
        return {name: entry for name, entry in entries if name not in self.datasets}

    def all_datasets(self) -> dict[str, Dataset | WorldDataset]:
        """Return the built-in world's data sets and the user's own."""
        return {**self.world_datasets(), **self.datasets}

    @model_validator(mode="after")
    def names_exist(self) -> Config:
        """Every model, data set, dictionary and concept that is named is also declared."""
        known = {"model": self.models, "dictionary": self.dictionaries, "concept": self.concepts}
        known |= {"dataset": self.all_datasets()}
        for kind, key, name in (*sources(self.datasets), *references(self)):
            if name not in known[kind]:
                raise ValueError(f"{key}: unknown {kind} '{name}'; declared are {sorted(known[kind])}")
        check_subsets(self.all_datasets())
        return self

    @model_validator(mode="after")
    def world_models_exist(self) -> Config:
        """A path `world:NAME` names a model of the built-in world, which the experiment uses."""
        check_world(self)
        return self

    @model_validator(mode="after")
    def concepts_and_stages_fit(self) -> Config:
        """A sample on both sides of a contrast hides a difference; a stage needs those before it."""
        check_concepts(self.concepts, self.all_datasets())
        check_needs(self)
        return self

    @model_validator(mode="after")
    def stages_end(self) -> Config:
        """A dictionary's ancestry ends at a random start."""
        for name in self.dictionaries:
            seen, current = [name], self.dictionaries[name].initial
            while current != "random":
                if current in seen:
                    raise ValueError(
                        f"dictionaries.{name}: starts from itself ({' -> '.join([*seen, current])})"
                    )
                seen.append(current)
                current = self.dictionaries[current].initial
        return self

    @model_validator(mode="after")
    def layers_are_listed(self) -> Config:
        """Layers become a list, of blocks that the models have."""
        models = [name for kind, _, name in references(self) if kind == "model"]
        return self.model_copy(update={"layers": studied_layers(self, models)})

    @model_validator(mode="after")
    def published_layers_exist(self) -> Config:
        """A published dictionary has a file for every layer."""
        for name, entry in self.published().items():
            try:
                entry.check_layers(self.layers)
            except ValueError as error:
                raise ValueError(f"dictionaries.{name}.{error}") from error
        return self

    def scale_root(self, name: str) -> str | None:
        """Return the imported dictionary with whose input scale a dictionary is trained.

        None for one that starts at random, or inherits the scale of a dictionary that is trained here.
        """
        path = [name, *self.ancestors(name)]
        imported = [one for one in path if one in self.published()]
        return imported[-1] if path[1:] and path[1:] == imported else None

    def scale_stage(self, root: str) -> str | None:
        """Return the dictionary on whose tokens an imported one's input scale is estimated, if it is."""
        entry = self.published()[root]
        if entry.scale_on is not None:
            return entry.scale_on
        return None if entry.tells_scale else next(self.scaled_by(root), None)

    def scaled_by(self, root: str) -> Iterator[str]:
        """Yield the dictionaries that are trained with an imported one's input scale."""
        return (name for name in self.trained() if self.scale_root(name) == root)

    def needs_told_scale(self, root: str) -> bool:
        """Return whether trainings need the input scale that an imported dictionary's files tell."""
        return self.scale_stage(root) is None and any(self.scaled_by(root))

    @model_validator(mode="after")
    def scales_are_estimated_on_own_stages(self) -> Config:
        """An input scale is estimated on what a training from that very dictionary sees."""
        for root, entry in self.published().items():
            stage = entry.scale_on
            if stage is not None and stage not in self.scaled_by(root):
                raise ValueError(
                    f"dictionaries.{root}.scale_on: '{stage}' is no trained dictionary that starts from "
                    f"'{root}'"
                )
        return self

    @model_validator(mode="after")
    def imported_indices_have_one_seed(self) -> Config:
        """An imported dictionary keeps the indices of one dictionary, not of one a seed."""
        for name, entry in self.published().items():
            initial = entry.initial
            if initial in self.trained() and self.seeds > 1:
                raise ValueError(
                    f"dictionaries.{name}.initial: '{initial}' is trained for {self.seeds} seeds, each with "
                    "features of its own, but an imported dictionary is one; set seeds: 1, or import both"
                )
        return self

    @model_validator(mode="after")
    def shapes_fit(self) -> Config:
        """At most all features are active; a warm start keeps the width; a loss has what its shape has."""
        shapes = {"architecture": self.architecture}
        shapes |= {f"dictionaries.{name}.architecture": self.shape(name) for name in self.trained()}
        for key, shape in shapes.items():
            if shape.k > shape.d_sae:
                raise ValueError(f"{key}.k: found {shape.k}, allowed at most d_sae = {shape.d_sae}")
        for name, stage in self.trained().items():
            if stage.initial in self.trained() and self.shape(stage.initial).d_sae != self.shape(name).d_sae:
                raise ValueError(
                    f"dictionaries.{name}.architecture.d_sae: found {self.shape(name).d_sae}, but it starts "
                    f"from '{stage.initial}' with {self.shape(stage.initial).d_sae}"
                )
            check_losses(f"dictionaries.{name}", stage, self.shape(name))
        return self

    @model_validator(mode="after")
    def streams_have_one_process(self) -> Config:
        """Processes that share a training would each run the whole model; layers are what devices share."""
        for name, stage in self.trained().items():
            if self.extraction.store == "stream" and stage.processes > 1:
                raise ValueError(
                    f"dictionaries.{name}: found {stage.processes} processes and `store: stream`, but "
                    "several train from stored activations alone. Set devices and nodes to 1: with "
                    f"`extraction.layers_at_once: {-(-len(self.layers) // stage.processes)}` the layers are "
                    "shared out to jobs with a device each; or set `extraction.store` to temporary"
                )
        return self

    @model_validator(mode="after")
    def what_is_compared_fits(self) -> Config:
        """What is compared keeps its indices, was trained alike, and is what it is said to be."""
        check_methods(self)
        check_numbering(self)
        check_labelling(self.labels, self.labelling)
        check_untuned(self)
        check_scoreboard(self)
        check_chosen(self)
        check_models(self)
        check_budgets(self)
        return self

    @model_validator(mode="after")
    def main_is_taken(self) -> Config:
        """`main` is the comparison of the section `diff`, and `statistics` a folder beside it."""
        if taken := {MAIN, "statistics"} & set(self.comparisons):
            raise ValueError(f"comparisons: {sorted(taken)} cannot be the name of a comparison; rename it")
        return self

    def ancestors(self, dictionary: str) -> list[str]:
        """Return the dictionaries that one starts from, nearest first; of a circle, each once."""
        found, current = [], self.dictionaries[dictionary].initial
        while current != "random" and current not in found:
            found.append(current)
            current = self.dictionaries[current].initial
        return found

    @model_validator(mode="after")
    def uses_are_apart(self) -> Config:
        """Reporting on what was used before would select on the test data; a null saw no images."""
        check_held_out(references(self), self.all_datasets())
        check_nulls(self)
        return self


def references(config: Config) -> Iterable[tuple[str, str, str]]:
    """Yield (kind, key, name) for everything that the configuration refers to by name."""
    for name, stage in config.trained().items():
        yield "model", f"dictionaries.{name}.model", stage.model
        yield "dataset", f"dictionaries.{name}.dataset", stage.dataset
    for name, stage in config.dictionaries.items():
        if stage.base_model is not None:
            yield "model", f"dictionaries.{name}.base_model", stage.base_model
        if stage.initial != "random":
            yield "dictionary", f"dictionaries.{name}.initial", stage.initial
    for name, model in config.models.items():
        if model.untuned is not None:
            yield "model", f"models.{name}.untuned", model.untuned
    for i, entry in enumerate(config.evaluation):
        yield "model", f"evaluation.{i}.model", entry.model
        yield "dataset", f"evaluation.{i}.dataset", entry.dataset
        yield from (("dictionary", f"evaluation.{i}.dictionaries", name) for name in entry.dictionaries)
    yield from config.perplexity.references() if config.perplexity else ()
    for label, diff in config.all_comparisons().items():
        section = "diff" if label == MAIN else f"comparisons.{label}"
        yield "model", f"{section}.model", diff.model
        yield from (("dictionary", f"{section}.{key}", name) for key, name in dictionaries_of(diff).items())
        yield from (("model", f"{section}.{key}", name) for key, name in further_models(diff).items())
        for key in ("visual_datasets", "text_datasets"):
            yield from (("dataset", f"{section}.{key}", name) for name in getattr(diff, key))
    grid = config.stages.grid.corners() if config.stages.grid else {}
    yield from (("dictionary", f"stages.grid.{key}", name) for key, name in grid.items())
    yield from (("model", "stages.models", name) for name in config.stages.models)
    if config.diff.null_check is not None:
        yield "dictionary", "diff.null_check", config.diff.null_check
    for name, concept in config.concepts.items():
        yield from (("dataset", f"concepts.{name}.{key}", dataset) for key, dataset in concept.datasets())
    yield from causal_references(config)
    yield from scoreboard_references(config)
