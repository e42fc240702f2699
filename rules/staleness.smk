"""What Snakemake's comparison of params and inputs does not see: values and files that change places.

It compares the values of a rule's params, and the names of its input files, as sets: two data sets that
are swapped leave both sets as they were. So every rule with results has one more param, a digest of
which param has which value and which input has which files.
"""

import hashlib
from inspect import signature


def plain(value):
    """Return file names without Snakemake's flags; all else as it is."""
    return [str(part) for part in value] if isinstance(value, list) else str(value)


def is_compared(item):
    """Tell whether Snakemake compares a value with that of the last run: unless it is computed from resources."""
    return not callable(item) or list(signature(item).parameters) == ["wildcards"]


def places(rule):
    """Return a params function: a digest of the names of a rule's inputs and params with what they stand for."""
    named = [*rule.input.items(), *rule.params.items()]
    items = [(name, item) for name, item in named if is_compared(item)]

    def digest(wildcards):
        values = [(name, plain(item(wildcards) if callable(item) else item)) for name, item in items]
        return hashlib.sha256(repr(values).encode()).hexdigest()[:16]

    return digest


# Of this workflow alone: rules of one that uses it as a module are not ours to change.
for rule_with_results in (one for one in workflow.modifier.rules if one.output):
    rule_with_results.set_params(places=places(rule_with_results))
