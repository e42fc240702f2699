"""Whether submitted files of scores can be read, before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from vlmdiff.config.schema import Config
from vlmdiff.config.scoreboard import board_seeds
from vlmdiff.config.storage import planned_size


def submission_problems(config: Config, is_made: Callable[[str], bool]) -> Iterator[str]:
    """Yield what is wrong with the files of scores that are there, and which are not.

    Snakemake's own environment may hold nothing but Snakemake, where jobs have theirs (`--sdm conda`). Then
    this is left to the jobs.

    Args:
        config: the configuration.
        is_made: tells whether a rule makes a file.
    """
    submissions = config.scoreboard.submissions if config.scoreboard else {}
    files = [
        (f"scoreboard.submissions.{name}.{key}", file, is_control)
        for name, one in submissions.items()
        for key, file, is_control in (
            ("file", one.file, False),
            *((f"controls.{control}", file, True) for control, file in one.controls.items()),
        )
    ]
    for key, file, is_control in files:
        if is_made(file):
            continue
        if not Path(file).is_file():
            yield f"{key}: found '{file}', which is no file in {Path.cwd()}; expected a CSV of scores"
        elif find_spec("pandas") is not None:
            yield from reading_problems(key, file, is_control, config)


def reading_problems(key: str, file: str, is_control: bool, config: Config) -> Iterator[str]:
    """Yield why a file of scores, or of a control's, cannot be read, or of which seeds it is."""
    from vlmdiff.scoreboard.submitted import SubmissionError, check_features, read_submission

    try:
        table = read_submission(file, config.layers, may_be_empty=is_control)
        # Of a control the lines are counted alone.
        if is_control:
            return
        if "feature" in table and config.diff.adapted in config.trained():
            check_features(table, config.shape(config.diff.adapted).d_sae, file)
    except SubmissionError as error:
        yield f"{key}: {error}"
        return
    size = planned_size(config, config.diff.model)
    if "direction" in table and size is not None and (width := len(table["direction"][0])) != size.d_model:
        yield f"{key}: {file}: direction: found {width} numbers, expected {size.d_model}, the model's width"
    if (largest := int(table["seed"].max())) not in (known := board_seeds(config)):
        yield f"{key}: {file}: seed: found {largest}, expected 0 to {known.stop - 1}"
