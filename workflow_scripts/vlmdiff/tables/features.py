"""Contracts of the feature tables: statistics, diff, contrast, lexical filter, funnel."""

from vlmdiff.tables.columns import contract

FEATURE = (("layer", "int", "decoder block"), ("feature", "int", "index in the dictionary"))

STATISTICS = contract(
    "Sums over the tokens of one group and type, one row per feature that fired there or group total.",
    *FEATURE,
    ("group", "str", "relation or kind of question"),
    ("token_type", "str", "text or image"),
    ("fires", "int", "tokens on which the feature is active (z > 0)"),
    ("sum_activation", "float", "sum of z"),
    ("sum_squares", "float", "sum of z squared"),
    ("samples_fired", "int", "samples with at least one active token of the type"),
    ("sum_fires_squares", "int", "sum over samples of (active tokens of the sample) squared"),
    ("sum_fires_tokens", "int", "sum over samples of active tokens x tokens of the sample"),
)

TOTALS = contract(
    "How many tokens and samples the statistics are sums over.",
    ("layer", "int", "decoder block"),
    ("group", "str", "relation or kind of question"),
    ("token_type", "str", "text or image"),
    ("n_tokens", "int", "tokens"),
    ("n_samples", "int", "samples with at least one token of the type"),
    ("sum_tokens_squares", "int", "sum over samples of (tokens of the sample) squared"),
)

TOP_SAMPLES = contract(
    "The strongest samples of a feature within a group, by the largest activation on a text token.",
    *FEATURE,
    ("group", "str", "relation or kind of question"),
    ("rank", "int", "0 for the strongest"),
    ("sample_id", "str", "sample"),
    ("position", "int", "position of the token in the model's sequence"),
    ("token_id", "int", "token in the model's vocabulary"),
    ("activation", "float", "z at that token"),
)

BETAS = (
    (
        "beta_base",
        "float",
        "factor with which the feature explains the model before tuning best (latent scaling); NaN where it "
        "is silent or not measured",
    ),
    ("beta_model", "float", "the same of the comparison's model"),
)

BEFORE = (
    (
        "text_energy_before",
        "float",
        "mean of z squared of the base dictionary's feature over tokens of text-only samples, in the model "
        "before tuning; NaN where not measured",
    ),
    (
        "visual_energy_before",
        "float",
        "the same over text tokens of samples with images, which that model reads without them",
    ),
)

LATENT_SCALING = contract(
    "How strongly the models before and after tuning have a feature (docs/understand/diff_features.md).",
    *FEATURE,
    *BETAS,
    *BEFORE,
)

FEATURE_DIFF = contract(
    "What fine-tuning did to a feature: rotation and energies (docs/understand/method.md section 5).",
    *FEATURE,
    ("seed", "int", "index of the seed"),
    ("cos_decoder", "float", "cosine of the decoder rows of base and adapted, or of a crosscoder's models"),
    ("cos_encoder", "float", "the same of the encoder columns"),
    ("null_cos_decoder", "float", "cosine of the decoder rows of base and null, or of the null's models"),
    ("null_cos_encoder", "float", "the same of the encoder columns"),
    ("check_cos_decoder", "float", "cosine of the decoder rows of base and the second null; NaN without one"),
    (
        "untuned_cos_decoder",
        "float",
        "cosine of the decoder rows of base and the dictionary of a model that was never tuned; NaN without",
    ),
    (
        "calibrated",
        "bool",
        "the null's decoder row moved by more than rounding; else the feature never fired on the null's "
        "text, and its rotation has nothing to be held against; true for crosscoders",
    ),
    ("check_calibrated", "bool", "the same of the second null's row; false without one"),
    (
        "similarity",
        "float",
        "what the method goes by, 1 for no change: cos_decoder; of a drift the overlap of the energies "
        "before and after, NaN without energy; of a crosscoder the overlap of its rows in both models",
    ),
    ("null_similarity", "float", "the same of the null; of a crosscoder's null by an index of its own"),
    (
        "relative_norm",
        "float",
        "share of the tuned model in the norms of a crosscoder's decoder row, .5 for a shared feature; NaN "
        "of other methods",
    ),
    *BETAS,
    *BEFORE,
    ("visual_energy", "float", "mean of z squared over text tokens of samples with images"),
    ("text_energy", "float", "mean of z squared over tokens of text-only samples"),
    ("visual_rate", "float", "fraction of text tokens with images on which the feature fires"),
)

ADAPTED = contract(
    "The diff with the decision of both rules.",
    *[
        (
            field.name,
            {"int64": "int", "double": "float", "bool": "bool"}[str(field.type)],
            field.metadata[b"meaning"].decode(),
        )
        for field in FEATURE_DIFF
    ],
    ("adapted_percentile", "bool", "adapted by the percentile rule"),
    ("adapted_calibrated", "bool", "adapted by the null-calibrated rule"),
    ("adapted", "bool", "adapted by the rule of the config"),
)

THRESHOLDS = contract(
    "What each rule selects, one row a layer (layer -1: all layers).",
    ("seed", "int", "index of the seed"),
    ("rule", "str", "percentile, calibrated, or energy (no rotation asked for)"),
    ("layer", "int", "decoder block, -1 for all"),
    ("tau", "float", "largest similarity (cosine, for a rotation) that counts as changed"),
    ("eps", "float", "visual energy above which a feature counts as active"),
    ("features", "int", "features"),
    ("visual", "int", "features with visual energy above eps"),
    (
        "visual_uncalibrated",
        "int",
        "of these, not calibrated: the null never fired, nothing to hold them against",
    ),
    ("adapted", "int", "features that the rule selects"),
    ("adapted_uncalibrated", "int", "of these, not calibrated"),
    (
        "null_adapted",
        "int",
        "calibrated features that it would select were the null dictionary the adapted one",
    ),
    ("null_false_positive_rate", "float", "null_adapted / (visual - visual_uncalibrated)"),
    ("check_visual", "float", "visual features that either null's text moved; NaN without a second null"),
    ("check_vlm_adapted", "float", "of these, selected"),
    (
        "check_adapted",
        "float",
        "of these, selected were the second null, which set no threshold, the adapted one",
    ),
    ("check_false_positive_rate", "float", "check_adapted / check_visual"),
    ("check_low", "float", "lower end of its Wilson 95 % interval"),
    ("check_high", "float", "upper end of it"),
    ("check_p", "float", "exact one-sided McNemar p of check_vlm_adapted > check_adapted, paired by feature"),
    (
        "untuned_adapted",
        "float",
        "visual features that it would select were the dictionary of the model that was never tuned the "
        "adapted one; NaN without such a model",
    ),
    ("untuned_rate", "float", "untuned_adapted / visual"),
    (
        "visual_textual",
        "float",
        "visual features that had more energy on plain text than on questions before tuning; NaN where that "
        "was not measured",
    ),
    ("adapted_textual", "float", "of the selected features, those too"),
    ("adapted_also_untuned", "float", "of the selected features, those that it would select of that one too"),
)

THRESHOLD_SWEEP = contract(
    "Robustness of the percentile rule (docs/understand/method.md section 5).",
    ("seed", "int", "index of the seed"),
    ("eps", "float", "visual energy threshold"),
    ("percentile", "float", "percentile of the cosines"),
    ("tau", "float", "cosine at that percentile"),
    ("adapted", "int", "features selected"),
    ("uncalibrated", "int", "of these, not calibrated"),
    ("jaccard", "float", "Jaccard index with the selection of the config"),
    ("retention", "float", "fraction of the config's selection that is kept"),
    ("precision", "float", "fraction of this selection that the config selects too"),
    ("layer_correlation", "float", "Pearson correlation of the counts by layer with the config's"),
)

CONTRAST = contract(
    "How well a feature tells a concept, by the contrast of the config (method.md section 6).",
    ("concept", "str", "concept of the config"),
    *FEATURE,
    ("unit", "str", "token or sample; tokens of one sample are not independent"),
    ("fires_target", "int", "units of the target set on which the feature fires"),
    ("n_target", "int", "units of the target set"),
    ("fires_baseline", "int", "units of the baseline set on which it fires"),
    ("n_baseline", "int", "units of the baseline set"),
    ("level", "str", "text_matched: the value of `within` where it tells most; empty for counts"),
    (
        "value",
        "str",
        "text_matched: the value of `label` on which it is active most, after the name of one of several; "
        "empty for counts",
    ),
    ("effect_size", "float", "in units of Cohen's d: within strata, or of the odds ratio for counts"),
    ("odds_ratio", "float", "of firing; inf where its denominator is 0, NaN where both are"),
    ("freq_target", "float", "fires_target / n_target"),
    ("freq_baseline", "float", "fires_baseline / n_baseline"),
    ("freq_difference", "float", "freq_target - freq_baseline"),
    ("log_p_firings", "float", "natural logarithm of the p of firings alone, whatever their strength"),
    ("log_p", "float", "natural logarithm of the p that selects: one-sided Fisher's, or that within strata"),
    ("log_p_adjusted", "float", "natural logarithm of the Benjamini-Hochberg adjusted p"),
    ("selected", "bool", "keeps the effect, the frequency and the false discovery rate of the config"),
    (
        "design_effect",
        "float",
        "variance of freq_difference with samples as clusters / with independent units; NaN without variance",
    ),
    ("log_p_clustered", "float", "the p with samples as clusters; `log_p` within strata, where images are"),
    ("log_p_clustered_adjusted", "float", "the same, Benjamini-Hochberg adjusted"),
    ("selected_clustered", "bool", "selected with the clustered p in the place of the other"),
)

LEXICAL = contract(
    "Does a candidate still fire when the question is neutral? (docs/understand/method.md section 6)",
    ("concept", "str", "concept of the config"),
    *FEATURE,
    ("samples", "int", "strongest samples tried"),
    ("pairs", "int", "image x neutral prompt pairs tried"),
    ("pairs_fired", "int", "pairs with an activation above the threshold on a text token"),
    ("samples_fired", "int", "samples with at least one such pair"),
    ("activation_concept", "float", "mean over samples of the largest activation under the own question"),
    ("activation_neutral", "float", "mean over pairs of the largest activation under neutral prompts"),
    ("invariant_strict", "bool", "fires on every sample"),
    ("invariant_loose", "bool", "fires in at least the config's fraction of pairs"),
    ("invariant", "bool", "by the config's variant"),
)

FUNNEL = contract(
    "How many features each filter leaves, one row per layer and stage (layer -1: all layers).",
    ("concept", "str", "concept of the config"),
    ("seed", "int", "index of the seed"),
    ("layer", "int", "decoder block, -1 for all"),
    ("stage", "str", "all, visual, adapted, contrast, adapted_and_contrast, final"),
    ("features", "int", "features left"),
    ("uncalibrated", "int", "of these, not calibrated: the null's text never fired them"),
)

CONTRAST_CHECK = contract(
    "How far the p of independent tokens overstate, one row a unit.",
    ("concept", "str", "concept of the config"),
    ("seed", "int", "index of the seed"),
    ("unit", "str", "token or sample"),
    ("tested", "int", "features that fire in either set"),
    ("selected", "int", "features selected by Fisher's test"),
    ("selected_clustered", "int", "features selected with samples as clusters"),
    ("significant", "int", "features with an adjusted p of Fisher's test within the false discovery rate"),
    ("significant_clustered", "int", "the same with samples as clusters"),
    ("final", "int", "final features"),
    ("final_clustered", "int", "final features that the clustered contrast selects too"),
    ("median_design_effect", "float", "median over the selected features"),
    ("median_log10_overstatement", "float", "median over them of log10 of clustered p / Fisher's p"),
)

FINAL_FEATURES = contract(
    "Features that pass every filter, strongest contrast first.",
    ("concept", "str", "concept of the config"),
    ("seed", "int", "index of the seed"),
    *FEATURE,
    ("name", "str", "L{layer}F{feature}"),
    ("cos_decoder", "float", "cosine of the decoder rows of base and adapted"),
    ("calibrated", "bool", "its rotation has a reference: the null's text fired it"),
    ("visual_energy", "float", "mean of z squared over text tokens with images"),
    ("visual_rate", "float", "fraction of text tokens with images on which it fires"),
    ("level", "str", "text_matched: the value of `within` where it tells most; empty for counts"),
    (
        "value",
        "str",
        "text_matched: the value of `label` on which it is active most, after the name of one of several; "
        "empty for counts",
    ),
    ("effect_size", "float", "of the config's unit, in units of Cohen's d"),
    ("odds_ratio", "float", "of the config's unit"),
    ("freq_target", "float", "of the config's unit"),
    ("freq_difference", "float", "of the config's unit"),
    ("log_p_adjusted", "float", "of the config's unit"),
    ("log_p_clustered_adjusted", "float", "of the config's unit, samples as clusters"),
    ("selected_clustered", "bool", "the contrast selects it with samples as clusters too"),
    ("sample_odds_ratio", "float", "counted per sample"),
    ("sample_log_p_adjusted", "float", "counted per sample"),
    ("activation_neutral", "float", "mean largest activation under neutral prompts"),
)

RECURRENCE = contract(
    "The nearest feature in another seed's dictionary, for final features and a control of each.",
    ("concept", "str", "concept of the config"),
    ("seed", "int", "index of the seed"),
    *FEATURE,
    ("name", "str", "L{layer}F{feature}"),
    ("arm", "str", "final, or control (live, not final, of the same layer, the nearest in firing rate)"),
    ("pair", "int", "number that a final feature and its control share within a seed"),
    ("visual_rate", "float", "fraction of text tokens with images on which it fires"),
    ("other_seed", "int", "index of the seed in which it is looked for"),
    ("match", "int", "feature there with the largest cosine of decoder rows"),
    ("cosine", "float", "that cosine"),
    ("mutual", "bool", "the match's own nearest feature is this one"),
    ("match_final", "bool", "the match is a final feature of its seed"),
)

STAGE_GRID = contract(
    "Rotation of a feature along the edges of the stage grid (docs/understand/method.md section 3).",
    ("seed", "int", "index of the seed"),
    *FEATURE,
    ("data_at_start", "float", "cosine S to D: new data, base model"),
    ("model_at_start", "float", "cosine S to M: new model, base data"),
    ("model_after_data", "float", "cosine D to F: new model once the data are new"),
    ("data_after_model", "float", "cosine M to F: new data once the model is new"),
    ("both_data_first", "float", "cosine S to F by way of D"),
    ("both_model_first", "float", "cosine S to F by way of M"),
    ("order_agreement", "float", "cosine of the two F"),
    ("adapted", "bool", "adapted in the main comparison"),
    ("final", "bool", "final feature of the first ablated concept in the main comparison"),
)

COMPARISONS = contract(
    "What each comparison finds, and what ablating what it finds does.",
    ("comparison", "str", "comparison of the config; main for the section `diff`"),
    ("about", "str", "what is different"),
    ("seed", "int", "index of the seed"),
    ("concept", "str", "concept of the config"),
    ("visual", "int", "features with visual energy above eps"),
    ("adapted_percentile", "int", "adapted features by the percentile rule"),
    ("adapted_calibrated", "int", "adapted features by the null-calibrated rule"),
    ("adapted", "int", "adapted features by the comparison's own rule"),
    ("untuned", "bool", "its model was never tuned: what it finds are false finds"),
    ("null_rate", "float", "false-positive rate of that rule on the null"),
    ("contrast", "int", "features that the contrast selects"),
    ("final", "int", "features that pass every filter"),
    ("final_uncalibrated", "int", "of these, not calibrated: the null's text never fired them"),
    ("final_clustered", "int", "of these, selected with samples as clusters too"),
    ("jaccard", "float", "of final features with main's; NaN if indices are not aligned"),
    ("matched", "float", "final features whose nearest decoder row in main is final there, as a fraction"),
    (
        "size",
        "int",
        "features ablated together: the first final ones; 0 if there are none or nothing was ablated",
    ),
    ("target_accuracy", "float", "change of accuracy on the concept's test data"),
    ("target_low", "float", "lower end of its 95 % interval"),
    ("target_high", "float", "upper end of it"),
    ("target_margin", "float", "change of the logit margin there"),
    ("target_margin_low", "float", "lower end of its 95 % interval"),
    ("target_margin_high", "float", "upper end of it"),
    ("random_margin", "float", "mean change of the margin there under random live features"),
    ("control_accuracy", "float", "change of accuracy on the general test data"),
    ("control_low", "float", "lower end of its 95 % interval"),
    ("control_high", "float", "upper end of it"),
    ("control_margin", "float", "change of the logit margin there"),
)

GALLERY = contract(
    "The strongest samples of the best final features, as the figure shows them.",
    ("concept", "str", "concept of the config"),
    ("seed", "int", "index of the seed"),
    ("layer", "int", "decoder block"),
    ("feature", "int", "index in the dictionary"),
    ("name", "str", "L{layer}F{feature}"),
    ("rank", "int", "0 for the strongest sample of the feature"),
    ("sample_id", "str", "sample"),
    ("image", "str", "image file; empty for text"),
    ("prompt", "str", "what the user asks"),
    ("token", "str", "token with the largest activation"),
    ("token_start", "int", "its first character in the prompt; -1 if it is not in the prompt"),
    ("token_end", "int", "the character after its last; -1 if it is not in the prompt"),
    ("activation", "float", "z at that token"),
)
