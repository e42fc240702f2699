"""Contracts of the tables about interventions and heads."""

from vlmdiff.tables.columns import contract

EFFECT = (
    ("dataset", "str", "data set"),
    ("group", "str", "relation or kind of question; 'all' for the whole data set"),
    ("n", "int", "samples"),
    ("clusters", "int", "different texts or images, whichever are fewer, if they repeat; else samples"),
    ("accuracy_clean", "float", "accuracy without intervention"),
    ("accuracy", "float", "accuracy with it"),
    ("delta_accuracy", "float", "accuracy - accuracy_clean, of the same samples"),
    ("delta_low", "float", "lower end of its paired bootstrap 95 % interval, by clusters"),
    ("delta_high", "float", "upper end of it"),
    ("lost", "int", "samples that were answered right and no longer are"),
    ("gained", "int", "samples that are answered right and were not"),
    ("mcnemar_p", "float", "McNemar's exact two-sided p that as many are lost as gained"),
    ("delta_margin", "float", "mean change of logit(answer) - best other choice"),
    ("margin_low", "float", "lower end of its bootstrap 95 % interval"),
    ("margin_high", "float", "upper end of it"),
)

CARRIED = (
    ("rate", "float", "mean over the features: share of the target's text tokens on which each fires"),
    ("energy", "float", "mean over the features of activation^2 x |W_dec|^2 on these tokens"),
    ("removed", "float", "share of the residual stream's variance there that the directions hold"),
)

RANKING = contract(
    "Validation effect of ablating single features: final ones, or pools of these and others; best first.",
    ("concept", "str", "concept of the config"),
    ("pool", "int", "number of the random pool; -1 for the final features"),
    (
        "rank",
        "int",
        "0 for the best of its pool: features measured exactly come before those estimated alone",
    ),
    ("layer", "int", "decoder block"),
    ("feature", "int", "index in the dictionary"),
    ("name", "str", "L{layer}F{feature}"),
    (
        "stands_for",
        "str",
        "name of the final feature in whose place it stands; its own name: that one itself",
    ),
    (
        "rate",
        "float",
        "share of the text tokens of the target's validation questions on which it fires; 0: it is silent "
        "there, and its effects say nothing of what it stands for",
    ),
    ("energy", "float", "mean over these tokens of activation^2 x |W_dec|^2"),
    ("scope", "str", "own_layer or all_layers"),
    ("target_estimate", "float", "first-order estimate of target_delta_margin"),
    ("control_estimate", "float", "first-order estimate of control_delta_margin"),
    (
        "target_delta_accuracy",
        "float",
        "change of accuracy on the concept's validation data; NaN: not measured",
    ),
    ("target_delta_margin", "float", "change of the mean logit margin there"),
    ("control_delta_accuracy", "float", "change of accuracy on the general validation data"),
    ("control_delta_margin", "float", "change of the mean logit margin there"),
    ("specificity", "float", "-target_delta_margin - |control_delta_margin|"),
)

ABLATION = contract(
    "Test effect of ablating features, and that of random pools.",
    ("concept", "str", "concept of the config"),
    ("scope", "str", "own_layer or all_layers"),
    ("arm", "str", "selected, or random: the best of a random pool, ranked alike"),
    ("size", "int", "features ablated together"),
    ("draw", "int", "selected: rank of a single feature, 0 for a set; random: number of the pool"),
    ("features", "str", "names, joined by ';'"),
    *CARRIED,
    *EFFECT,
)

SELECTION = contract(
    "Test effect of ablating features that a selection rule gives, and of random live features.",
    ("comparison", "str", "comparison of the config"),
    ("concept", "str", "concept of the config"),
    (
        "rule",
        "str",
        "contrast, contrast_visual, contrast_lexical, contrast_adapted or full; random: matched random "
        "features in the places of some of the last rule's",
    ),
    ("available", "int", "features that the rule gives"),
    ("size", "int", "features ablated together"),
    (
        "draw",
        "int",
        "0: the features of the smallest contrast p; from 1 on: a random subset of what the rule gives; "
        "rule random: number of the draw",
    ),
    ("features", "str", "names, joined by ';'"),
    *CARRIED,
    *EFFECT,
)

TRANSFER = contract(
    "Test effect of ablating the same directions in the model at other stages of its training.",
    ("concept", "str", "concept of the config"),
    ("model", "str", "model in which they are ablated"),
    ("order", "int", "place of the model in the config's order of time"),
    ("arm", "str", "selected, or random: the best of a random pool, ranked alike"),
    ("size", "int", "features ablated together"),
    ("draw", "int", "rank of a single feature, 0 for the set; number of the pool for random"),
    ("features", "str", "names, joined by ';'"),
    *CARRIED,
    ("transfer_margin", "float", "delta_margin / delta_margin of the same features in the last model"),
    *EFFECT,
)

STEERING = contract(
    "Test effect of adding a direction to the residual stream (docs/understand/method.md section 7).",
    ("concept", "str", "concept of the config"),
    ("model", "str", "model that is steered"),
    (
        "arm",
        "str",
        "caa, caa_middle (the baseline), feature or caa_feature; random: the best of a pool of as many "
        "random directions as there are arms",
    ),
    ("layer", "int", "block to whose output the direction is added"),
    ("feature", "int", "index in the dictionary; -1 if the arm has none"),
    ("name", "str", "L{layer}F{feature}, or L{layer}"),
    ("draw", "int", "number of the pool, else 0"),
    ("strength", "float", "length of what is added, in units of the mean residual norm at the layer"),
    ("chosen", "bool", "the direction's best strength on validation data"),
    ("winner", "bool", "the best of all arms, or of its pool, on validation data"),
    ("validation_accuracy", "float", "change of accuracy on the concept's validation data"),
    ("validation_margin", "float", "change of the margin there"),
    *EFFECT,
)

HEAD_ATTRIBUTION = contract(
    "Attribution patching of one head for one feature (docs/understand/method.md section 8).",
    ("concept", "str", "concept of the config"),
    ("feature_layer", "int", "layer of the feature"),
    ("feature", "int", "index in the dictionary"),
    ("name", "str", "L{layer}F{feature}"),
    ("layer", "int", "layer of the head"),
    ("head", "int", "head"),
    ("method_a", "float", "mean over tokens of |(a_corrupt - a_clean) . g_clean|"),
    ("method_b", "float", "mean over tokens of |(a_clean - a_corrupt) . g_corrupt|"),
    ("score", "float", "what ranks heads: mean of A and B, each divided by its sum over the feature's heads"),
    (
        "signed",
        "float",
        "mean over samples of the sum over tokens of (a_corrupt - a_clean) . g_clean: "
        "the first-order estimate of the change of the metric",
    ),
)

HEAD_SCORES = contract(
    "Heads scored over all traced features, best first.",
    ("concept", "str", "concept of the config"),
    ("rank", "int", "0 for the best"),
    ("layer", "int", "layer of the head"),
    ("head", "int", "head"),
    ("name", "str", "L{layer}H{head}"),
    ("score_a", "float", "mean over eligible features of method A, normalised per feature to sum 1"),
    ("score_b", "float", "the same for method B"),
    ("score", "float", "mean of both"),
    ("features", "int", "features for which the head was eligible"),
)

HEAD_PATCHING = contract(
    "Exact activation patching of one head, corrupt into clean, for one feature.",
    ("concept", "str", "concept of the config"),
    ("feature_layer", "int", "layer of the feature"),
    ("feature", "int", "index in the dictionary"),
    ("name", "str", "L{layer}F{feature}"),
    ("layer", "int", "layer of the head"),
    ("head", "int", "head"),
    ("exact", "float", "mean over samples of metric(patched) - metric(clean)"),
    ("exact_abs", "float", "mean over samples of its absolute value"),
    ("metric_clean", "float", "mean metric of the clean runs"),
    ("metric_corrupt", "float", "mean metric of the corrupt runs"),
    ("weight", "float", "1 / the probability with which the head was chosen to be patched"),
)

HEAD_AGREEMENT = contract(
    "Correlation over heads of attribution patching with exact patching, one row a feature and method.",
    ("concept", "str", "concept of the config"),
    ("feature_layer", "int", "layer of the feature; -1 for all features pooled"),
    ("feature", "int", "index in the dictionary; -1 for all features pooled"),
    ("name", "str", "L{layer}F{feature}; 'pooled' for all, each first divided by its mean absolute value"),
    ("method", "str", "score (what ranks heads), method_a, method_b or signed"),
    ("reference", "str", "column of the exact patching that it is held against: exact_abs or exact"),
    ("features", "int", "features compared"),
    ("heads", "int", "heads compared, summed over features"),
    (
        "spearman",
        "float",
        "rank correlation, each head by its weight; NaN for fewer than 3 heads or a constant column",
    ),
    ("spearman_low", "float", "lower end of its bootstrap 95 % interval over features; NaN for fewer than 5"),
    ("spearman_high", "float", "upper end of it"),
    ("pearson", "float", "linear correlation, weighted and NaN likewise"),
)

HEAD_ATTENTION = contract(
    "Attention of a feature's top head to one image patch, from the token that looks at the image most.",
    ("concept", "str", "concept of the config"),
    ("feature_layer", "int", "layer of the feature"),
    ("feature", "int", "index in the dictionary"),
    ("name", "str", "L{layer}F{feature}"),
    ("layer", "int", "layer of the head"),
    ("head", "int", "head"),
    ("head_name", "str", "L{layer}H{head}"),
    ("sample_rank", "int", "0 for the sample on which the feature fires most"),
    ("sample_id", "str", "sample"),
    ("position", "int", "position of that token in the model's sequence"),
    ("token", "str", "that token"),
    ("activation", "float", "largest activation of the feature on the sample"),
    ("row", "int", "row of the patch, 0 at the top"),
    ("col", "int", "column of the patch, 0 at the left"),
    ("weight", "float", "attention weight; patches of one token sum to at most 1"),
    ("left", "float", "left edge of all patches, as a fraction of the picture's width; below 0 in padding"),
    ("top", "float", "their top edge, as a fraction of its height"),
    ("right", "float", "their right edge; above 1 in padding"),
    ("bottom", "float", "their bottom edge"),
)

HEAD_ABLATION = contract(
    "Test effect of mean-ablating the top heads, and random heads.",
    ("concept", "str", "concept of the config"),
    ("arm", "str", "top, or random (as many heads of each block as the top set of this size has)"),
    ("size", "int", "heads ablated together"),
    ("draw", "int", "0 for top; number of the draw for random"),
    ("heads", "str", "names, joined by ';'"),
    *EFFECT,
)
