"""Where this workflow lies, whoever runs it from wherever: its library and what is shipped with it."""

import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

# Not `workflow.basedir`: as a module that is the folder of the workflow that uses this one.
RULES_FOLDER = workflow.current_basedir
if not isinstance(RULES_FOLDER, os.PathLike):
    raise WorkflowError(
        f"found the rules of vlmdiff at {RULES_FOLDER}, expected them in a folder: they need the library and the models "
        "that lie beside them; clone the repository and name the Snakefile of the clone"
    )

ROOT = Path(RULES_FOLDER).resolve().parent
SCRIPTS = ROOT / "workflow_scripts"
if str(SCRIPTS) not in sys.path:
    sys.path.insert(0, str(SCRIPTS))
# Jobs look here last, after whatever vlmdiff may be installed, unless told.
others = [one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one not in ("", str(SCRIPTS))]
os.environ["PYTHONPATH"] = os.pathsep.join([str(SCRIPTS), *others])

import vlmdiff
from vlmdiff.config.places import located

if Path(vlmdiff.__path__[0]).resolve() != SCRIPTS / "vlmdiff":
    raise WorkflowError(
        f"the workflow in {ROOT} needs its own library, but vlmdiff was imported from {vlmdiff.__path__[0]} before; "
        "use modules of one clone of the repository, and do not import another vlmdiff in a Snakefile"
    )


def moves_paths(modifier):
    """Tell whether a module statement puts the files of its rules elsewhere."""
    if modifier is None:
        return False
    return bool(modifier.prefix or modifier.modifies_prefixes or moves_paths(modifier.inner_modifier))


if moves_paths(workflow.modifier.path_modifier):
    raise WorkflowError(
        "module: found `prefix` or `replace_prefix`, which change the files of rules and not the paths that their jobs "
        "are told; leave it out and name the folder below results/ by `experiment` in the module's config"
    )

if not (config or workflow.modifier.is_main_snakefile()):
    raise WorkflowError(
        'module: found no `config`, expected an experiment; give it one, such as `config: config["vlmdiff"]`'
    )
