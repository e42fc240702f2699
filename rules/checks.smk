"""What is refused before anything runs: resources of no rule, files that are not there, targets nobody makes."""

from contextlib import redirect_stderr
from difflib import get_close_matches
from io import StringIO

from vlmdiff.config.local_checkpoints import checkpoint_problems
from vlmdiff.config.local_files import missing_files, unnameable_files
from vlmdiff.config.omitted import explain_omitted, omitted_rules
from vlmdiff.config.targets import explain_target
from vlmdiff.data.local_data import data_problems
from vlmdiff.dictionaries.local_dictionaries import dictionary_problems


def check_resources():
    """Refuse resources of rules that do not exist."""
    # By their names here, whatever a workflow that uses this one as a module calls them.
    names = set(rules._rules)
    if unknown := sorted(CFG.resources.keys() - names):
        near = [close for name in unknown for close in get_close_matches(name, names, n=1)]
        hint = f"did you mean {near}?" if near else "`snakemake --list-rules` lists all rules"
        raise WorkflowError(f"resources: found {unknown}, which are no rules of this workflow; {hint}")


def asked_for():
    """Return what the command line asks for: targets, then whatever else it names a rule or file for.

    Snakemake knows it only after it has read the rules, and then answers without a hint.
    """
    from snakemake.cli import parse_args

    if not (workflow.is_main_process and Path(sys.argv[0]).stem in ("snakemake", "__main__")):
        return [], []
    with redirect_stderr(StringIO()):
        _, given = parse_args(sys.argv[1:])
    further = (given.forcerun, given.until, given.omit_from, given.prioritize)
    return list(given.targets), [name for names in further for name in names or []]


def is_made(file):
    """Tell whether a rule makes a file."""
    return any(rule.is_producer(file) for rule in workflow.rules)


def no_such_shard(target):
    """Say which block of a data set a target names that it does not have; None if none."""
    for maker in (one for one in workflow.rules if one.is_producer(target)):
        values = maker.get_wildcards(target)
        if "block" in values and int(values["block"]) not in blocks(values["dataset"]):
            return f"{target}: found block {values['block']}, expected 0 to {max(blocks(values['dataset']))}"
    return None


def of_omitted_stages(targets):
    """Return a line for each target that belongs to a stage which the configuration leaves out, by target."""
    rules = omitted_rules(CFG)
    found = {}
    for target in targets:
        makers = [one.name for one in workflow.rules if one.name == target or one.is_producer(target)]
        if makers and all(name in rules for name in makers):
            found[target] = explain_omitted(target, rules[makers[0]])
    return found


def check_targets():
    """Refuse targets that nothing makes; a module knows neither all rules nor what else is asked for."""
    if not workflow.modifier.is_main_snakefile():
        return
    outputs = {one.name: [str(file) for file in one.output] for one in workflow.rules}
    many = {rule.name for rule in workflow.rules if rule.has_wildcards()}
    targets, further = asked_for()
    wrong = [name for name in targets if name in many]
    wrong += [
        name for name in (*targets, *further) if not (name in outputs or Path(name).exists() or is_made(name))
    ]
    files = [*EXPERIMENT, *(file for target in TARGETS for file in comparison_outputs(target))]
    known = of_omitted_stages((*targets, *further))
    lines = [explain_target(name, outputs, files, CFG.experiment) for name in wrong if name not in known]
    lines += known.values()
    lines += filter(None, map(no_such_shard, targets))
    if CFG.world is None and "world_models" in targets:
        lines.append("world_models: this configuration has no `world`; ask for it with config/config.yaml")
    if lines:
        raise WorkflowError("\n".join(lines))


def check_files():
    """Refuse files of the configuration that are not there, cannot be named, or tell that it is wrong.

    Jobs do not check it: other nodes may see other folders.
    """
    if not workflow.is_main_process:
        return
    lines = [*missing_files(CFG, is_made), *unnameable_files(CFG)]
    lines += [*checkpoint_problems(CFG), *dictionary_problems(CFG), *data_problems(CFG)]
    if lines:
        told = "\n  ".join(map(LAYERS_OF_CONFIG.located, lines))
        raise WorkflowError(f"The configuration does not fit the files that it names:\n  {told}")


check_resources()
check_files()
check_targets()
