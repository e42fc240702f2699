"""Where the files of an experiment lie, as rules ask for them and make them."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from typing import Any

from vlmdiff.config.absent import is_there
from vlmdiff.config.cases import REAL_BASE
from vlmdiff.config.crosscoders import models_read
from vlmdiff.config.datasets import is_prepared
from vlmdiff.config.local_files import BESIDE_WEIGHTS, WEIGHTS, files_of, with_targets
from vlmdiff.config.places import shipped
from vlmdiff.config.samples_file import data_folder
from vlmdiff.config.schema import Config
from vlmdiff.config.sources import is_fetched, world_model
from vlmdiff.config.storage import layer_groups

WEIGHTS_FILE = "sae_weights.safetensors"


class Paths:
    """Paths of one experiment's files, from the working directory on.

    Attributes:
        config: the configuration of the experiment.
        folder: where its results lie.
        layer_groups: by name of a folder, the layers that share a shard file.
    """

    def __init__(self, config: Config) -> None:
        """Read from a configuration where things lie."""
        self.config = config
        self.folder = f"results/{config.experiment}"
        self.layer_groups = {f"layers_{layers[0]}_{layers[-1]}": layers for layers in layer_groups(config)}

    def samples(self, dataset: str) -> str:
        """Return a data set's samples.jsonl."""
        if dataset not in self.config.datasets:
            return f"{self.folder}/world/data/{dataset}/samples.jsonl"
        entry = self.config.datasets[dataset]
        folder = f"{self.folder}/data/{dataset}" if is_prepared(entry) else data_folder(entry.path)
        return f"{folder}/samples.jsonl"

    def blocks(self, dataset: str) -> range:
        """Return the indices of a data set's blocks of samples, each of which is one shard."""
        return range(ceil(self.config.dataset(dataset).samples / self.config.extraction.shard_samples))

    def shards(self, model: str, dataset: str, layer: int | str) -> list[str]:
        """Return the shards that hold a layer of a model shown a data set, in the order of samples."""
        group = next(name for name, layers in self.layer_groups.items() if int(layer) in layers)
        folder = f"{self.folder}/activations/{model}/{dataset}/{group}"
        return [f"{folder}/shard_{block}.h5" for block in self.blocks(dataset)]

    def shards_by_layer(self, model: str, dataset: str) -> dict[int, list[str]]:
        """Return the shards that hold each layer of a model shown a data set."""
        return {layer: self.shards(model, dataset, layer) for layer in self.config.layers}

    def read_by(self, dictionary: str, model: str, dataset: str) -> dict[int, list[str]]:
        """Return by layer the shards that a dictionary reads to look at a model shown a data set.

        A crosscoder reads those of the model before tuning too, and first.
        """
        models = models_read(self.config, dictionary, model)
        return {
            layer: [file for one in models for file in self.shards(one, dataset, layer)]
            for layer in self.config.layers
        }

    def evaluation_sets(self, dictionary: str) -> list[dict[str, Any]]:
        """Return the held-out sets that list a dictionary, as plain values with their shards."""
        return [
            {
                "model": entry.model,
                "dataset": entry.dataset,
                "tokens": entry.tokens,
                "shards": self.shards_by_layer(entry.model, entry.dataset),
            }
            for entry in self.config.evaluation
            if dictionary in entry.dictionaries
        ]

    def left_out(self, model: str, dataset: str) -> list[str]:
        """Return the tables of what was left out of all shards of a model shown a data set."""
        folder = f"{self.folder}/activations/{model}/{dataset}"
        return [
            f"{folder}/{group}/left_out_{block}.csv"
            for group in self.layer_groups
            for block in self.blocks(dataset)
        ]

    def world_models(self) -> str:
        """Return where the built-in world's checkpoints lie: shipped with the code, or made here."""
        if self.config.world.real_model:
            return f"{self.folder}/world/merged"
        is_shipped = self.config.world.models == "shipped"
        return shipped("resources/world") if is_shipped else f"{self.folder}/world/models"

    def tuned(self, file: str) -> str:
        """Return where a file of a real language model's tuning lies: shipped, or made here if it is not.

        Args:
            file: `frame.safetensors`, or an adapter's, such as `vlm/100/adapter_model.safetensors`.
        """
        place = shipped(f"resources/smollm2/{file}")
        if self.config.world.models == "shipped" and is_there(place):
            return place
        return f"{self.folder}/world/tuned/{file}"

    def real_base(self) -> str:
        """Return the folder of the real language model that is taught to see."""
        return self.checkpoint(REAL_BASE, self.config.world.real_model.base)

    def checkpoint(self, name: str, source: str) -> str:
        """Return where the files of a source lie: in the world, fetched, or where it says."""
        if is_fetched(source):
            return f"{self.folder}/models/{name}"
        model = world_model(source)
        if model is None:
            return source
        # Control models are never shipped as checkpoints.
        is_control = model in self.config.world.controls and self.config.world.real_model is None
        return f"{self.folder}/world/models/{model}" if is_control else f"{self.world_models()}/{model}"

    def tower(self, model: str) -> str | None:
        """Return the folder of a model's vision tower; None if it is part of the checkpoint."""
        source = self.config.models[model].vision_tower
        return None if source is None else self.checkpoint(f"{model}_vision_tower", source)

    def model(self, name: str) -> str:
        """Return the config.json of a model's checkpoint."""
        return f"{self.checkpoint(name, self.config.models[name].path)}/config.json"

    def weights(self, model: str) -> list[str]:
        """Return what a model's weights are known by, those that lie apart from its checkpoint too."""
        entry, tower = self.config.models[model], self.tower(model)
        files = self.identity(self.checkpoint(model, entry.path), entry.path)
        if tower is not None:
            files += [f"{tower}/config.json", *self.identity(tower, entry.vision_tower)]
        if entry.untuned is not None:
            files += [self.model(entry.untuned), *self.weights(entry.untuned)]
        return files

    def identity(self, folder: str, source: str) -> list[str]:
        """Return what a checkpoint is known by, apart from config.json, which other weights may have too."""
        if is_fetched(source):
            return [f"{folder}/commit.json"]
        if folder.startswith(f"{self.folder}/"):
            return [f"{folder}/model.safetensors"]
        found = files_of(folder, (*WEIGHTS, *BESIDE_WEIGHTS))
        return with_targets(file for file in found if file.name != "config.json")

    def subject(self, model: str) -> dict[str, Any]:
        """Return how a model is loaded, its own path aside."""
        entry = self.config.models[model]
        untuned = entry.untuned and self.checkpoint(entry.untuned, self.config.models[entry.untuned].path)
        return entry.params("path", "planned") | {"vision_tower": self.tower(model), "untuned": untuned}

    def dictionary(self, name: str, seed: int | str, layer: int | str, file: str = WEIGHTS_FILE) -> str:
        """Return one file of a dictionary at one layer; a published one is the same for all seeds."""
        seed = 0 if name in self.config.published() else seed
        return f"{self.folder}/dictionaries/{name}/seed_{seed}/layer_{layer}/{file}"

    def dictionaries(self, name: str, seed: int | str, file: str = WEIGHTS_FILE) -> list[str]:
        """Return one file of a dictionary for every layer."""
        return [self.dictionary(name, seed, layer, file) for layer in self.config.layers]

    def statistics(
        self,
        table: str,
        comparison: str,
        seed: int | str,
        datasets: Iterable[str],
        model: str | None = None,
    ) -> list[str]:
        """Return one table of a comparison's adapted dictionary for every data set and layer.

        Args:
            table: `statistics`, `totals` or `top_samples`.
            comparison: name of the comparison.
            seed: seed of the dictionary.
            datasets: what the model was shown.
            model: which; left out: the comparison's.
        """
        diff = self.config.comparison(comparison)
        folder = f"{self.folder}/features/statistics/{diff.adapted}/seed_{seed}/{model or diff.model}"
        return [
            f"{folder}/{dataset}/layer_{layer}/{table}.parquet"
            for dataset in datasets
            for layer in self.config.layers
        ]
