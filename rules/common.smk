"""What all rule files share: the checked configuration, paths, wildcards."""

import os
import sys
import time
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

from snakemake.io import get_wildcard_names

from vlmdiff.config.cases import TARGETS
from vlmdiff.config.comparisons import MAIN
from vlmdiff.config.layers import read_layers
from vlmdiff.config.load import ConfigError, load_config
from vlmdiff.config.paths import Paths
from vlmdiff.config.places import shipped
from vlmdiff.config.targets import NUMBER
from vlmdiff.runtime.environment import InterpreterError, prepare_jobs
from vlmdiff.runtime.failures import failure_summary
from vlmdiff.runtime.job import TOLD_AT_THE_END
from vlmdiff.runtime.scheduling import begin

# As a module with a `config` of its own, the workflow takes that; else the files and the command line tell it.
OWN = not workflow.modifier.skip_configfile
try:
    prepare_jobs()
    WRITTEN = read_layers(
        config,
        workflow.configfiles if OWN else (),
        workflow.config_settings.config_args if OWN else (),
        home=ROOT / "config",
    )
    named = Path(workflow.configfiles[-1]).stem if OWN and workflow.configfiles else None
    CFG = load_config(WRITTEN.values, WRITTEN.where, named)
except (ConfigError, InterpreterError) as error:
    raise WorkflowError(str(error))
# The report names the experiment, and shows all files.
config["experiment"] = CFG.experiment
known = {Path(file).absolute() for file in workflow.configfiles}
workflow.configfiles += [file for file in WRITTEN.files if file not in known]

STARTED = time.time()
# Of several workflows Snakemake calls the main one's `onerror` alone.
if workflow.modifier.is_main_snakefile():
    os.environ[TOLD_AT_THE_END] = "1"
FILES = Paths(CFG)
LAYERS = CFG.layers
SEEDS = range(CFG.seeds)


def command_line():
    """Return what the command line says; None in a job, or where there is none.

    Snakemake knows it only after it has read the rules, and then answers without a hint.
    """
    from snakemake.cli import parse_args

    if not (workflow.is_main_process and Path(sys.argv[0]).stem in ("snakemake", "__main__")):
        return None
    with redirect_stderr(StringIO()):
        return parse_args(sys.argv[1:])[1]


def results(path):
    """Return the path of a result; wildcards stand in it as Snakemake knows them."""
    return f"{FILES.folder}/{path}"


# Sections of the report, in the order in which a reader asks; Snakemake sorts them by name.
SECTIONS = ["Summary", "Adapted features", "Concepts", "Interventions", "Heads", "How sure are we"]
SECTIONS += ["Models and data", "Dictionaries", "Scoreboard"]


def shown(path, category, title, caption=None):
    """Return a result that the report shows with a title, and with the wildcards that are not part of it.

    Snakemake sorts a section's rows by their columns, the first one first: figures, tables, texts.
    Its words are in rules/captions/, in the file that is called as it is, or as `caption` says.
    """
    kind = {".svg": "figure", ".md": "text"}.get(Path(path).suffix, "table")
    labels = {name: f"{{{name}}}" for name in sorted(get_wildcard_names(path) - get_wildcard_names(title))}
    caption = f"captions/{caption or Path(path).stem}.rst"
    place = f"{SECTIONS.index(category) + 1} " if category in SECTIONS else ""
    labels = {"kind": kind, "result": title, **labels}
    return report(results(path), caption=caption, category=place + category, labels=labels)


def figure(path, category, title):
    """Return the files of a figure, of which the report shows the SVG.

    Its words are in rules/captions/figures/.
    """
    pdf, png = (results(f"figures/{path}.{ending}") for ending in ("pdf", "png"))
    return {
        "pdf": pdf,
        "png": png,
        "svg": shown(f"figures/{path}.svg", category, title, f"figures/{Path(path).name}"),
    }


def one_of(names):
    """Return a wildcard constraint that matches exactly these names."""
    return "|".join(map(str, names)) or "(?!)"


wildcard_constraints:
    comparison=one_of([MAIN, *CFG.comparisons]),
    model=one_of(CFG.models),
    dataset=one_of(CFG.all_datasets()),
    dictionary=one_of(CFG.dictionaries),
    concept=one_of(CFG.concepts),
    target=one_of(TARGETS),
    scope="own_layer|all_layers",
    block=NUMBER,
    seed=NUMBER,
    layer=one_of(LAYERS),


def not_compared(values):
    """Return a param that changes no result: Snakemake does not compare what is computed from resources."""
    return lambda wildcards, resources: values(wildcards)


def folder_beside(path):
    """Ask for a folder that is written together with a file that is an input too, and stands for both.

    Of a folder Snakemake sees the time alone, which a copy changes.
    """
    return ancient(path)


def taken(layers, wildcards):
    """Return the layers that a job takes: those of its rule, or the one that it was asked for."""
    return [int(str(layer).format(**wildcards)) for layer in layers]


def of_layers(path, layers):
    """Return a path of each layer, in whose place `{}` stands; wildcards stay as they are."""
    return [path.replace("{}", str(layer)) for layer in layers]


def job_of_layers(kind, job, layers):
    """Return the log or benchmark of a job that takes some layers."""
    group = f"layer_{layers[0]}" if len(layers) == 1 else f"layers_{layers[0]}_{layers[-1]}"
    return results(f"{kind}/{job}/{group}.{'log' if kind == 'logs' else 'tsv'}")


def once(lists):
    """Return the files of lists in their order, each once."""
    return list(dict.fromkeys(file for files in lists for file in files))


def facts(section, *keys):
    """Return some settings of a section of the configuration."""
    return {key: getattr(section, key) for key in keys}
