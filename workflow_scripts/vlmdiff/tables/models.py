"""Contracts of the tables about models and dictionaries."""

from vlmdiff.tables.columns import contract

ACCURACY = contract(
    "Held-out accuracy of a model under a condition, by data set and group ('all' for the whole set).",
    ("model", "str", "model of the config, or checkpoint of the built-in world, as `world:NAME` names it"),
    ("condition", "str", "image, no_image, or shuffled_image (that of another sample)"),
    ("dataset", "str", "name of the data set"),
    ("group", "str", "relation or kind of question; 'all' for the whole data set"),
    ("n", "int", "samples"),
    ("correct", "int", "samples whose best-scored choice is the answer"),
    ("accuracy", "float", "correct / n"),
    (
        "accuracy_vocabulary",
        "float",
        "fraction whose best-scored token of the whole vocabulary begins the answer",
    ),
    ("ci_low", "float", "lower end of the Wilson 95 % interval of accuracy"),
    ("ci_high", "float", "upper end of it"),
    ("chance", "float", "mean of 1 / number of choices"),
    ("guess", "float", "share that is right by a group's commonest answer, learnt on other samples"),
    ("image_only", "int", "samples answered with their images and not under this condition"),
    ("condition_only", "int", "samples answered under this condition and not with their images"),
)

PERPLEXITY = contract(
    "How well models read plain text, each held against the first one.",
    ("model", "str", "model of the config"),
    ("dataset", "str", "name of the data set"),
    ("documents", "int", "texts"),
    ("tokens", "int", "predicted tokens: all but the first of each text"),
    ("loss", "float", "mean cross-entropy of a token, in nats"),
    ("perplexity", "float", "exp(loss)"),
    ("ratio", "float", "perplexity / that of the first model"),
    ("ratio_low", "float", "lower end of a 95 % bootstrap interval of the ratio; texts are drawn"),
    ("ratio_high", "float", "upper end of it"),
)

DICTIONARY_METRICS = contract(
    "Held-out quality of one dictionary at one layer on one kind of token.",
    ("dictionary", "str", "stage of the dictionary"),
    ("seed", "int", "index of the seed"),
    ("layer", "int", "decoder block"),
    ("snapshot", "int", "percentage of training; 100 for the final dictionary"),
    ("model", "str", "model that made the activations"),
    ("dataset", "str", "data set that it was shown"),
    ("tokens", "str", "all, text or image"),
    ("n_tokens", "int", "tokens scored"),
    ("fvu", "float", "fraction of variance unexplained (docs/understand/method.md section 4)"),
    ("l0", "float", "mean number of active features a token"),
    ("dead", "int", "features that never fired on these tokens"),
    (
        "cos_initial",
        "float",
        "median cosine of decoder rows with the dictionary that it started from; NaN if random",
    ),
)

TRAINING_LOG = contract(
    "Progress of one dictionary's training.",
    ("step", "int", "optimiser steps done"),
    ("loss", "float", "training loss of the step's batch"),
    ("fvu", "float", "fraction of variance unexplained of the batch"),
    ("l0", "float", "mean number of active features a token"),
    ("auxiliary", "float", "auxiliary loss of dead features before its coefficient; 0 if none takes part"),
    ("dead", "int", "features that have not fired for the last `dead_after_tokens`"),
    ("learning_rate", "float", "learning rate of the step"),
)
