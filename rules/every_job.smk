"""What every job has, written once: a log, a benchmark, an environment, resources, and digests of all that it depends on.

Snakemake compares the values of a rule's params, and the names of its input files, as sets: two data sets that
are swapped leave both sets as they were. So every rule with results has one more param, a digest of which param
has which value and which input has which files.
"""

import hashlib
from inspect import signature

from snakemake.resources import Resources

from vlmdiff.config.resources import resources
from vlmdiff.config.targets import plain
from vlmdiff.runtime.digest import script_digest


def case(one):
    """Return what names a job of a rule: the parts of its first output's path that differ from job to job."""
    path = plain(one.output[0]).removeprefix(f"{FILES.folder}/") if one.output else one.name
    return [part for part in Path(path).with_suffix("").parts if "{" in part]


def is_compared(item):
    """Tell whether Snakemake compares a value with that of the last run: unless it is computed from resources."""
    return not callable(item) or list(signature(item).parameters) == ["wildcards"]


def unflagged(value):
    """Return file names without Snakemake's flags; all else as it is."""
    return [str(part) for part in value] if isinstance(value, list) else str(value)


def places(one):
    """Return a params function: a digest of the names of a rule's inputs and params with what they stand for."""
    named = [*one.input.items(), *one.params.items()]
    items = [(name, item) for name, item in named if is_compared(item)]

    def digest(wildcards):
        values = [(name, unflagged(item(wildcards) if callable(item) else item)) for name, item in items]
        return hashlib.sha256(repr(values).encode()).hexdigest()[:16]

    return digest


def complete(one):
    """Give a rule what neither it says nor a module statement that uses it."""
    # Its own name, whatever a workflow that uses this one as a module calls it.
    said, name = one.ruleinfo, Path(one.script).stem
    job = "/".join([name, *case(one)])
    if not said.log:
        one.log_modifier = said.path_modifier
        one.set_log(results(f"logs/{job}.log"))
    if not said.benchmark and one.output:
        one.benchmark_modifier = said.path_modifier
        one.benchmark = results(f"benchmarks/{job}.tsv")
    if not said.conda_env:
        one.conda_env = "../envs/vlmdiff.yaml"
    # What it says itself counts, and the command line has the last word.
    given = {
        *(said.resources or ((), {}))[1],
        *workflow.resource_settings.overwrite_resources.get(one.name, {}),
    }
    ours = {key: value for key, value in resources(CFG, name).items() if key not in given}
    one.resources.update(Resources.from_mapping(ours))
    one.set_params(code=script_digest(SCRIPTS / f"{name}.py"))
    if one.output:
        one.set_params(places=places(one))


# Of this workflow alone: rules of one that uses it as a module are not ours to change.
for rule_with_a_script in (one for one in workflow.modifier.rules if one.script):
    complete(rule_with_a_script)
