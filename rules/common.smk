"""What all rule files share - the checked configuration, paths, wildcards, code digests."""

import os
import sys
import time
from pathlib import Path

# Texts are UTF-8, whatever the user's locale.
os.environ.update(PYTHONUTF8="1")
# Idle OpenMP threads must sleep, not spin: two spinning jobs on two cores run at a third of their speed.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Jobs keep freed memory for their next tensors instead of handing every one of them back to the system.
for setting in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
    os.environ.setdefault(setting, str(2**30))

from snakemake.io import get_wildcard_names

from vlmdiff.config.comparisons import MAIN
from vlmdiff.config.layers import read_layers
from vlmdiff.config.load import ConfigError, load_config
from vlmdiff.config.places import shipped
from vlmdiff.runtime.digest import script_digest
from vlmdiff.runtime.failures import failure_summary
from vlmdiff.runtime.job import TOLD_AT_THE_END

# Snakemake writes the interpreter's path into a command as it is.
if any(mark in sys.executable for mark in " '\"$&;()<>|*?\t"):
    raise WorkflowError(
        f"The Python of this environment is {sys.executable!r}, and Snakemake cannot start scripts with blanks or quotes "
        "in that path. Make the environment in another folder (`python3 -m venv ~/vlmdiff-env`, then its `pip install -r "
        "envs/requirements.txt`) and run its `snakemake` here; the folder of the workflow itself may be called anything"
    )

# As a module with a `config` of its own, the workflow takes that; else the files and the command line tell it.
OWN = not workflow.modifier.skip_configfile
try:
    LAYERS_OF_CONFIG = read_layers(
        config,
        workflow.configfiles if OWN else (),
        workflow.config_settings.config_args if OWN else (),
        home=ROOT / "config",
    )
    named = Path(workflow.configfiles[-1]).stem if OWN and workflow.configfiles else None
    CFG = load_config(LAYERS_OF_CONFIG.values, LAYERS_OF_CONFIG.where, named)
except ConfigError as error:
    raise WorkflowError(str(error))
# The report shows all of them.
known = {Path(file).absolute() for file in workflow.configfiles}
workflow.configfiles += [file for file in LAYERS_OF_CONFIG.files if file not in known]

STARTED = time.time()
# Of several workflows Snakemake calls the main one's `onerror` alone.
if workflow.modifier.is_main_snakefile():
    os.environ[TOLD_AT_THE_END] = "1"
RESULTS = f"results/{CFG.experiment}"
LAYERS = CFG.layers
SEEDS = range(CFG.seeds)


def results(path):
    """Return the path of a result; wildcards stand in it as Snakemake knows them."""
    return f"{RESULTS}/{path}"




def shown(path, category, caption=None, **labels):
    """Return a result that the report shows, labelled by the wildcards of its path too.

    Args:
        path: it, below the folder of results.
        category: its part of the report.
        caption: the name of its words in rules/captions/; as the file is called by default.
        labels: what it is called there, as `table="Ranking"`; a wildcard in one of them needs no label of its own.
    """
    told = " ".join(labels.values())
    labels |= {name: f"{{{name}}}" for name in sorted(get_wildcard_names(path)) if f"{{{name}}}" not in told}
    caption = f"captions/{caption or Path(path).stem}.rst"
    return report(results(path), caption=caption, category=category, labels=labels)


def figure(path, category, title, caption=None):
    """Return the files of a figure, of which the report shows the SVG.

    Args:
        path: it, below the folder of figures, without its ending.
        category: its part of the report.
        title: what it is called there.
        caption: the name of its words in rules/captions/; as the file is called by default.
    """
    return {
        "pdf": results(f"figures/{path}.pdf"),
        "png": results(f"figures/{path}.png"),
        "svg": shown(f"figures/{path}.svg", category, caption, figure=title),
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
    scope="own_layer|all_layers",
    block=r"\d+",
    seed=r"\d+",
    layer=one_of(LAYERS),



def not_compared(values):
    """Return a param that changes no result: Snakemake does not compare what is computed from resources."""
    return lambda wildcards, resources: values(wildcards)


def folder_beside(path):
    """Ask for a folder that is written together with a file that is an input too, and stands for both.

    Of a folder Snakemake sees the time alone, which a copy changes.
    """
    return ancient(path)


def growing(first):
    """Return a resource that is half of the first request larger with every retry."""
    return lambda wildcards, attempt: first * (1 + attempt) // 2


def rule_resources(rule_name, **defaults):
    """Return the resources of a rule: the configuration's in place of those that suit the built-in world.

    Memory and time given as numbers grow when a job is tried again; words (`12h`) stay as they are.
    """
    chosen = defaults | CFG.resources.get(rule_name, {})
    return {
        name: growing(value) if name in ("mem_mb", "runtime") and isinstance(value, int) else value
        for name, value in chosen.items()
    }
