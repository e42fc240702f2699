"""Where this workflow lies, whoever runs it from wherever: its library and what is shipped with it."""

import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.0")


def unpacked(repository, revision, cache):
    """Return a folder with all files of a revision; from GitHub and GitLab Snakemake fetches those of rules alone.

    Args:
        repository: Snakemake's own clone, which has no files beside it.
        revision: tag, branch or commit.
        cache: where the folders of revisions lie.
    """
    commit = repository.commit(revision).hexsha
    folder = Path(cache) / "vlmdiff" / commit
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as new:
            repository.git.archive(commit, format="tar", output=f"{new}/files.tar")
            shutil.unpack_archive(f"{new}/files.tar", f"{new}/files", "tar", filter="data")
            # Another process may be faster.
            with suppress(OSError):
                os.rename(f"{new}/files", folder)
    return folder


def workflow_folder(rules):
    """Return the folder of this workflow, given where Snakemake found the rules in it.

    Raises:
        WorkflowError: they are in no folder, and in none that can be had.
    """
    if isinstance(rules, os.PathLike):
        return Path(rules).resolve().parent
    if hasattr(rules, "hosted_repo"):
        return unpacked(rules.hosted_repo.repo, rules.ref, rules.cache_path).resolve()
    raise WorkflowError(
        f"found the rules of vlmdiff at {rules}, expected them in a folder, or by Snakemake's github(…) or gitlab(…): they "
        "need the library and the models that lie beside them; clone the repository and name the Snakefile of the clone"
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

# Not `workflow.basedir`: of a module that is the folder of the workflow that uses it.
ROOT = workflow_folder(workflow.current_basedir)
SCRIPTS = ROOT / "workflow_scripts"
if str(SCRIPTS) not in sys.path:
    sys.path.insert(0, str(SCRIPTS))
# Jobs look here last, after whatever vlmdiff may be installed, unless told.
others = [one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one not in ("", str(SCRIPTS))]
os.environ.update(PYTHONPATH=os.pathsep.join([str(SCRIPTS), *others]))

import vlmdiff
from vlmdiff.config.places import located

if Path(vlmdiff.__path__[0]).resolve() != SCRIPTS / "vlmdiff":
    raise WorkflowError(
        f"the workflow in {ROOT} needs its own library, but vlmdiff was imported from {vlmdiff.__path__[0]} before; "
        "use modules of one clone of the repository, and do not import another vlmdiff in a Snakefile"
    )
