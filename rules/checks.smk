"""What is refused before anything runs: resources of no rule, files that are not there, targets nobody makes."""

from vlmdiff.config.absent import is_there
from vlmdiff.config.local_checkpoints import checkpoint_problems
from vlmdiff.config.local_files import missing_files, unnameable_files
from vlmdiff.config.omitted import explain_omitted, omitted_rules
from vlmdiff.config.resources import resource_problems
from vlmdiff.config.scoreboard import explain_unscored
from vlmdiff.config.plan import plan
from vlmdiff.config.targets import by_layer, explain_starving, explain_target, starves
from vlmdiff.data.local_data import data_problems
from vlmdiff.features.matched_problems import matched_problems
from vlmdiff.dictionaries.local_dictionaries import dictionary_problems
from vlmdiff.scoreboard.submission_problems import submission_problems


def asked_for():
    """Return what the command line names, and with which option."""
    if (given := command_line()) is None:
        return []
    options = ("targets", "until", "forcerun", "omit_from", "prioritize")
    return [(name, option) for option in options for name in getattr(given, option) or []]


def is_made(file):
    """Tell whether a rule makes a file."""
    return any(one.is_producer(file) for one in workflow.rules)


def why_not(name, option):
    """Say in one line why something that is asked for cannot be made; None if it can.

    Args:
        name: of a rule or file.
        option: `targets`, or the one that chooses jobs by it.
    """
    makers = [one for one in workflow.rules if one.name == name or one.is_producer(name)]
    omitted = omitted_rules(CFG)
    if makers and all(one.name in omitted for one in makers):
        return explain_omitted(name, omitted[makers[0].name])
    if name == "world_models" and CFG.world is None:
        return "world_models: this configuration has no `world`; ask for it with config/config.yaml"
    of_board = {"scoreboard", "summarise_scoreboard", "plot_scoreboard"}
    if of_board & {one.name for one in makers} and (told := explain_unscored(CFG)):
        return told
    if option == "until" and starves(name):
        return explain_starving(name)
    is_pattern = option == "targets" and any(one.name == name and one.has_wildcards() for one in makers)
    if is_pattern or not (makers or is_there(name)):
        outputs = {
            one.name: [by_layer(str(file), one_of(LAYERS)) for file in one.output] for one in workflow.rules
        }
        compared = [results(file) for target in TARGETS for file in products.comparison_products(CFG, target)]
        return explain_target(name, outputs, [*EXPERIMENT, *compared], CFG.experiment)
    for values in (one.get_wildcards(name) for one in makers if one.name != name):
        if "block" in values and int(values["block"]) not in (known := FILES.blocks(values["dataset"])):
            return f"{name}: found block {values['block']}, expected 0 to {max(known)}"
    return None


def refuse(lines, heading=""):
    """Stop with what is wrong, if anything."""
    if lines := list(filter(None, lines)):
        raise WorkflowError(heading + "\n  ".join(lines))


# By their names here, whatever a workflow that uses this one as a module calls them.
refuse(map(WRITTEN.located, resource_problems(CFG, [file.stem for file in SCRIPTS.glob("*.py")])))
# Jobs do not check files: other nodes may see other folders.
if workflow.is_main_process:
    found = [*missing_files(CFG, is_made), *unnameable_files(CFG), *checkpoint_problems(CFG)]
    found += [
        *dictionary_problems(CFG),
        *data_problems(CFG, matched_problems),
        *submission_problems(CFG, is_made),
    ]
    refuse(map(WRITTEN.located, found), "The configuration does not fit the files that it names:\n  ")
# A module knows neither all rules nor what else is asked for.
if workflow.modifier.is_main_snakefile():
    refuse(why_not(*named) for named in asked_for())
# A dry run starts nothing, so that Snakefile's `onstart` is silent. Of a module that says so of single rules, too,
# it is told once.
whole = workflow.modifier.rule_whitelist is None
if whole and workflow.is_main_process and workflow.output_settings.dryrun:
    logger.info(plan(CFG))
