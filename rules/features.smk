"""From dictionaries and activations to the features that changed, see, and encode a concept."""

from vlmdiff.config.comparisons import MAIN

FEATURES = results("features/{comparison}/seed_{seed}")


rule feature_statistics:
    """Count where each feature of a dictionary fires on a data set, and keep its strongest samples."""
    input:
        shards=lambda wildcards: shards(wildcards.model, wildcards.dataset, wildcards.layer),
        dictionary=lambda wildcards: dictionary_file(wildcards.dictionary, wildcards.seed, wildcards.layer),
    output:
        **{
            name: results(
                f"features/statistics/{{dictionary}}/seed_{{seed}}/{{model}}/{{dataset}}/layer_{{layer}}/{name}.parquet"
            )
            for name in ("statistics", "totals", "top_samples")
        },
    threads: CFG.threads
    resources:
        **rule_resources("feature_statistics", mem_mb=2000, runtime=60),
    params:
        top=CFG.lexical.samples,
    script:
        "../workflow_scripts/feature_statistics.py"


def feature_tables(name, comparison, seed, datasets):
    """Return one statistics table of a comparison's adapted dictionary for every data set and layer."""
    diff = CFG.comparison(comparison)
    folder = results(f"features/statistics/{diff.adapted}/seed_{seed}/{diff.model}")
    return [f"{folder}/{dataset}/layer_{layer}/{name}.parquet" for dataset in datasets for layer in LAYERS]


def diff_tables(name, kind):
    """Return an input function: tables of a comparison's `visual_datasets` or `text_datasets`."""

    def tables(wildcards):
        datasets = getattr(CFG.comparison(wildcards.comparison), kind)
        return feature_tables(name, wildcards.comparison, wildcards.seed, datasets)

    return tables


def compared(key, name="sae_weights.safetensors"):
    """Return an input function: a file for every layer of a comparison's `base`, `adapted` or `null`."""

    def files(wildcards):
        dictionary = getattr(CFG.comparison(wildcards.comparison), key)
        return [] if dictionary is None else dictionary_files(dictionary, wildcards.seed, name)

    return files


def untuned_null(wildcards):
    """Return the dictionary of the model that was never tuned, at every layer, for the main comparison's seeds with one."""
    name = CFG.diff.untuned if wildcards.comparison == MAIN else None
    if name is None or int(wildcards.seed) >= CFG.comparisons[name].seeds:
        return []
    return dictionary_files(CFG.comparison(name).adapted, wildcards.seed)


rule diff_features:
    """Measure how far each feature turned between two dictionaries, and how visual it is."""
    input:
        base=compared("base"),
        adapted=compared("adapted"),
        null=compared("null"),
        # For the first seed alone.
        null_check=lambda wildcards: [] if int(wildcards.seed) else compared("null_check")(wildcards),
        untuned=untuned_null,
        visual_statistics=diff_tables("statistics", "visual_datasets"),
        visual_totals=diff_tables("totals", "visual_datasets"),
        text_statistics=diff_tables("statistics", "text_datasets"),
        text_totals=diff_tables("totals", "text_datasets"),
    output:
        f"{FEATURES}/diff.parquet",
    resources:
        **rule_resources("diff_features", mem_mb=1000, runtime=30),
    params:
        layers=LAYERS,
    script:
        "../workflow_scripts/diff_features.py"


rule select_adapted:
    """Select the features that turned far and see: adapted ones, by calibrated thresholds."""
    input:
        f"{FEATURES}/diff.parquet",
    output:
        adapted=f"{FEATURES}/adapted.parquet",
        thresholds=shown(
            "features/{comparison}/seed_{seed}/thresholds.csv", "Adapted features", table="Thresholds"
        ),
        sweep=shown(
            "features/{comparison}/seed_{seed}/threshold_sweep.csv",
            "Adapted features",
            table="Threshold sweep",
        ),
    resources:
        **rule_resources("select_adapted", mem_mb=1000, runtime=10),
    params:
        diff=lambda wildcards: CFG.comparison(wildcards.comparison).params(
            "base", "adapted", "null", "null_check", "untuned", "model", "visual_datasets", "text_datasets"
        ),
    script:
        "../workflow_scripts/select_adapted.py"


def concept_side(concept, side):
    """Return a concept's `target` or `baseline`: a data set or part of one."""
    return getattr(CFG.concepts[concept], side)


def concept_tables(name, side):
    """Return an input function: tables of the data set of a concept's `target` or `baseline`."""

    def tables(wildcards):
        dataset = concept_side(wildcards.concept, side).dataset
        return feature_tables(name, wildcards.comparison, wildcards.seed, [dataset])

    return tables


def concept_datasets(concept):
    """Return the data sets of a concept's target and baseline."""
    return [concept_side(concept, side).dataset for side in ("target", "baseline")]


rule contrast_concept:
    """Test which features fire more often where a concept is shown than where it is not."""
    input:
        target_statistics=concept_tables("statistics", "target"),
        target_totals=concept_tables("totals", "target"),
        baseline_statistics=concept_tables("statistics", "baseline"),
        baseline_totals=concept_tables("totals", "baseline"),
        samples=lambda wildcards: [samples_file(name) for name in concept_datasets(wildcards.concept)],
        # A published dictionary has as many features as it has, whatever `architecture` says.
        dictionaries=compared("adapted", "cfg.json"),
    output:
        f"{FEATURES}/{{concept}}/contrast.parquet",
    resources:
        **rule_resources("contrast_concept", mem_mb=1000, runtime=30),
    params:
        target=lambda wildcards: concept_side(wildcards.concept, "target").params(),
        baseline=lambda wildcards: concept_side(wildcards.concept, "baseline").params(),
        samples=lambda wildcards: [CFG.dataset(name).samples for name in concept_datasets(wildcards.concept)],
        criteria=lambda wildcards: CFG.concept(wildcards.concept, wildcards.comparison).params(
            "target", "baseline", "unit", "words", "lexical", "compared"
        ),
    script:
        "../workflow_scripts/contrast_concept.py"


def compared_model(wildcards):
    """Return the model of a comparison."""
    return CFG.comparison(wildcards.comparison).model


def concept_unit(wildcards):
    """Return the unit by which a concept's features are selected."""
    return CFG.concepts[wildcards.concept].unit


def lexical_criteria(wildcards):
    """Return when a candidate counts as invariant; any does where a concept does without the lexical filter."""
    criteria = CFG.lexical.params("prompts", "samples", "describe_tokens")
    return criteria if CFG.concepts[wildcards.concept].lexical else criteria | {"variant": "none"}


rule lexical_filter:
    """Keep the candidates that fire on the image whatever the words of the prompt."""
    input:
        adapted=f"{FEATURES}/adapted.parquet",
        contrast=f"{FEATURES}/{{concept}}/contrast.parquet",
        dictionaries=compared("adapted"),
        top_samples=concept_tables("top_samples", "target"),
        totals=concept_tables("totals", "target"),
        samples=lambda wildcards: samples_file(concept_side(wildcards.concept, "target").dataset),
        model=lambda wildcards: config_file(compared_model(wildcards)),
        weights=lambda wildcards: weight_files(compared_model(wildcards)),
    output:
        f"{FEATURES}/{{concept}}/lexical.parquet",
    threads: CFG.threads
    resources:
        **rule_resources("lexical_filter", mem_mb=2000, runtime=60),
    params:
        model=compared_model,
        subject=lambda wildcards: subject_params(compared_model(wildcards)),
        layers=LAYERS,
        target=lambda wildcards: concept_side(wildcards.concept, "target").params(),
        unit=concept_unit,
        eps=lambda wildcards: CFG.comparison(wildcards.comparison).eps,
        strongest=CFG.lexical.samples,
        prompts=CFG.lexical.prompts,
        describe_tokens=CFG.lexical.describe_tokens,
        # Where the model may speak it has to be stopped at them.
        words=lambda wildcards: (CFG.concepts[wildcards.concept].words if CFG.lexical.describe_tokens else []),
        criteria=lexical_criteria,
        batch_tokens=CFG.extraction.batch_tokens,
        massive_ratio=CFG.extraction.massive_ratio,
    script:
        "../workflow_scripts/lexical_filter.py"


rule select_features:
    """Put all criteria together: the funnel, the final features, and whether tokens and samples agree."""
    input:
        adapted=f"{FEATURES}/adapted.parquet",
        contrast=f"{FEATURES}/{{concept}}/contrast.parquet",
        lexical=f"{FEATURES}/{{concept}}/lexical.parquet",
    output:
        funnel=shown(
            "features/{comparison}/seed_{seed}/{concept}/funnel.csv",
            "Concepts",
            "funnel_table",
            table="Funnel",
        ),
        final=shown(
            "features/{comparison}/seed_{seed}/{concept}/final_features.csv",
            "Concepts",
            table="Final features",
        ),
        check=shown(
            "features/{comparison}/seed_{seed}/{concept}/contrast_check.csv",
            "How sure are we",
            table="Independent tokens or samples",
        ),
    resources:
        **rule_resources("select_features", mem_mb=1000, runtime=10),
    params:
        unit=concept_unit,
        eps=lambda wildcards: CFG.comparison(wildcards.comparison).eps,
        fdr=lambda wildcards: CFG.concepts[wildcards.concept].fdr,
    script:
        "../workflow_scripts/select_features.py"
