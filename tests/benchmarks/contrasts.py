"""Contrasts that text cannot pass, held against the scene graphs of a finished default run.

`PYTHONPATH=workflow_scripts:tests python -m benchmarks.contrasts results/builtin` prints precision, recall
and average precision (by effect size) of equal texts and of two mirrors, without the rotation, seed by seed.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from vlmdiff.data.prepare import prepare_dataset
from vlmdiff.data.samples import load_samples
from vlmdiff.data.subset import Source
from vlmdiff.extraction.blocks import extract_block
from vlmdiff.features.counterfactual import write_counterfactual
from vlmdiff.features.text_matched import write_text_matched
from vlmdiff.models.registry import load_subject
from vlmdiff.scoreboard.scores import average_precision

VLM = Path(__file__).parents[2] / "resources" / "world" / "vlm"
LAYERS, PLACE = range(4), ["layer", "feature"]
LIMITS = {"label": "answer", "within": "relation", "min_effect_size": 0.8, "min_frequency": 0.02, "fdr": 0.05}
MIRRORS = {"sides": "left_right", "heights": "top_bottom"}
AXES = ((("left of", "right of"), "sides", "heights"), (("above", "below"), "heights", "sides"))


def mirrored_shards(samples_file: Path, count: int, folder: Path) -> dict[str, dict[int, list[Path]]]:
    """Show the model both mirrors of every image, and store its activations."""
    subject, found = load_subject("vlm", {"family": "llava"}, VLM), {}
    for name, sides in MIRRORS.items():
        file, shard = folder / name / "samples.jsonl", folder / f"{name}.h5"
        entry = {"kind": "subset", "of": "spatial_val", "transform": {"mirror": sides}, "samples": count}
        prepare_dataset(name, entry, file, folder / f"{name}.csv", Source(samples_file, count))
        samples = load_samples(file)
        extract_block(
            subject, samples, shard, dataset=name, block=0, shard_samples=count, layers=list(LAYERS)
        )
        found[name] = dict.fromkeys(LAYERS, [shard])
    return found


def contrasts(results: Path, folder: Path) -> Iterator[tuple[int, str, pd.DataFrame]]:
    """Yield (seed, contrast, CONTRAST) of all seeds of a run."""
    file = results / "world" / "data" / "spatial_val" / "samples.jsonl"
    samples, output = load_samples(file), folder / "contrast.parquet"
    ids = [sample.sample_id for sample in samples]
    own = sorted((results / "activations" / "vlm" / "spatial_val").glob("*/*.h5"))
    shards = mirrored_shards(file, len(samples), folder) | {"own": dict.fromkeys(LAYERS, own)}
    for place in sorted((results / "dictionaries" / "adapted").glob("seed_*")):
        seed, dictionaries = int(place.name[5:]), {layer: place / f"layer_{layer}" for layer in LAYERS}
        write_text_matched("x", samples, shards["own"], dictionaries, LIMITS | {"strata": "prompt"}, output)
        yield seed, "equal texts", pd.read_parquet(output)
        for against in ("the other mirror", "the image itself"):
            tables = []
            for groups, turned, kept in AXES:
                chosen = [sample for sample in samples if sample.group in groups]
                pair = shards["own" if "itself" in against else kept], shards[turned]
                write_counterfactual("x", chosen, [ids, ids], pair, dictionaries, LIMITS, output)
                tables.append(pd.read_parquet(output))
            yield seed, f"mirror against {against}", pd.concat(tables)


def main(results: Path) -> None:
    """Print a line for each seed, contrast and definition of what is spatial."""
    with tempfile.TemporaryDirectory() as folder:
        for seed, name, table in contrasts(results, Path(folder)):
            truth = pd.read_parquet(results / "ground_truth" / f"seed_{seed}" / "features.parquet")
            best = table.sort_values("effect_size", ascending=False).groupby(PLACE).first()
            joined = truth.set_index(PLACE).join(best[["effect_size", "selected"]])
            selected, score = joined["selected"].eq(True), joined["effect_size"].fillna(0).to_numpy()
            for told, column in (("best", "spatial"), ("any", "spatial_match")):
                real = joined[column].to_numpy(bool)
                hits = (selected & real).sum()
                print(
                    f"seed {seed}, {name}, {told}: {selected.sum()} selected, "
                    f"precision {hits / selected.sum():.2f}, recall {hits / real.sum():.2f}, "
                    f"average precision {average_precision(real, score):.2f}"
                )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
