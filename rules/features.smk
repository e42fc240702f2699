"""From dictionaries and activations to the features that changed, see, and encode a concept."""

from vlmdiff.config.comparisons import CROSSCODER, DRIFT, MAIN
from vlmdiff.config.latent_scaling import is_scaled
from vlmdiff.config.storage import drifting_models
from vlmdiff.config.together import counted_together, jobs_by_layers

# Of a comparison, and in it of a concept.
FEATURES = "features/{comparison}/seed_{seed}"
CONCEPT = f"{FEATURES}/{{concept}}"
COUNTED = "statistics/{dictionary}/seed_{seed}/{model}/{dataset}"
STATISTICS = results(f"features/{COUNTED}")


def counted_shards(layers, wildcards):
    """Return the stored activations on which features are counted."""
    by_layer = FILES.read_by(wildcards.dictionary, wildcards.model, wildcards.dataset)
    return once(by_layer[layer] for layer in taken(layers, wildcards))


def counted_dictionaries(layers, wildcards):
    """Return the dictionary whose features are counted, at each of some layers."""
    name, seed = wildcards.dictionary, wildcards.seed
    return [FILES.dictionary(name, seed, layer) for layer in taken(layers, wildcards)]


for suffix, layers, names in jobs_by_layers(CFG, CFG.dictionaries, counted_together):

    rule:
        """Count where each feature of a dictionary fires on a data set, and keep its strongest samples."""
        name:
            f"feature_statistics{suffix}"
        input:
            shards=partial(counted_shards, layers),
            dictionaries=partial(counted_dictionaries, layers),
        output:
            **{
                name: of_layers(f"{STATISTICS}/layer_{{}}/{name}.parquet", layers)
                for name in ("statistics", "totals", "top_samples")
            },
        log:
            job_of_layers("logs", f"feature_{COUNTED}", layers),
        benchmark:
            job_of_layers("benchmarks", f"feature_{COUNTED}", layers)
        wildcard_constraints:
            dictionary=one_of(names),
        threads: CFG.threads
        params:
            layers=partial(taken, layers),
            top=CFG.lexical.samples,
        script:
            "../workflow_scripts/feature_statistics.py"


def diff_tables(name, kind):
    """Return an input function: tables of a comparison's `visual_datasets` or `text_datasets`."""

    def tables(wildcards):
        datasets = getattr(CFG.comparison(wildcards.comparison), kind)
        return FILES.statistics(name, wildcards.comparison, wildcards.seed, datasets)

    return tables


def drift_tables(name, place):
    """Return an input function: tables of a drift's first model, before tuning, or of its second, the null."""

    def tables(wildcards):
        diff = CFG.comparison(wildcards.comparison)
        models = drifting_models(CFG, diff)[place : place + 1]
        return [
            file
            for model in models
            for file in FILES.statistics(
                name, wildcards.comparison, wildcards.seed, diff.visual_datasets, model
            )
        ]

    return tables


def compared(key, name="sae_weights.safetensors"):
    """Return an input function: a file for every layer of a comparison's `base`, `adapted` or `null`."""

    def files(wildcards):
        diff = CFG.comparison(wildcards.comparison)
        # Nothing is trained for a drift.
        dictionary = None if diff.method == DRIFT and key == "null" else getattr(diff, key)
        return [] if dictionary is None else FILES.dictionaries(dictionary, wildcards.seed, name)

    return files


def untuned_null(wildcards):
    """Return the dictionary of the model that was never tuned, at every layer, for the main comparison's seeds with one."""
    name = CFG.diff.untuned if wildcards.comparison == MAIN else None
    if name is None or int(wildcards.seed) >= CFG.comparisons[name].seeds:
        return []
    return FILES.dictionaries(CFG.comparison(name).adapted, wildcards.seed)


def scaled_shards(wildcards):
    """Return by layer, of each visual data set, the shards of the model before tuning and of the tuned one."""
    diff = CFG.comparison(wildcards.comparison)
    series = [
        FILES.shards_by_layer(model, dataset)
        for dataset in diff.visual_datasets
        for model in (diff.base_model, diff.model)
    ]
    return {
        layer: [first[layer] + second[layer] for first, second in zip(series[::2], series[1::2])]
        for layer in LAYERS
    }


def texts_before(wildcards):
    """Return by layer, of each text-only data set, the shards of the model before tuning."""
    diff = CFG.comparison(wildcards.comparison)
    series = [FILES.shards_by_layer(diff.base_model, dataset) for dataset in diff.text_datasets]
    return {layer: [shards[layer] for shards in series] for layer in LAYERS}


rule scale_latents:
    """Measure how strongly the model before tuning has the features of the tuned one, and what they did in it."""
    input:
        shards=lambda wildcards: once(files for sets in scaled_shards(wildcards).values() for files in sets),
        texts=lambda wildcards: once(files for sets in texts_before(wildcards).values() for files in sets),
        base=compared("base"),
        dictionaries=compared("adapted"),
    output:
        results(f"{FEATURES}/latent_scaling.parquet"),
    threads: CFG.threads
    params:
        layout=scaled_shards,
        texts=texts_before,
    script:
        "../workflow_scripts/scale_latents.py"


def latent_scaling(wildcards):
    """Return the latent scaling of a comparison that names the model before tuning."""
    scaled = is_scaled(CFG.comparison(wildcards.comparison))
    return results(f"{FEATURES}/latent_scaling.parquet").format(**wildcards) if scaled else []


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
        before_statistics=drift_tables("statistics", 0),
        before_totals=drift_tables("totals", 0),
        null_statistics=drift_tables("statistics", 1),
        null_totals=drift_tables("totals", 1),
        scaling=latent_scaling,
    output:
        results(f"{FEATURES}/diff.parquet"),
    params:
        layers=LAYERS,
        method=lambda wildcards: CFG.comparison(wildcards.comparison).method,
    script:
        "../workflow_scripts/diff_features.py"


rule select_adapted:
    """Select the features that turned far and see: adapted ones, by calibrated thresholds."""
    input:
        results(f"{FEATURES}/diff.parquet"),
    output:
        adapted=results(f"{FEATURES}/adapted.parquet"),
        thresholds=shown(f"{FEATURES}/thresholds.csv", "Adapted features", "Thresholds"),
        sweep=shown(f"{FEATURES}/threshold_sweep.csv", "Adapted features", "Threshold sweep"),
    params:
        diff=lambda wildcards: CFG.comparison(wildcards.comparison).params(
            *(
                "base",
                "adapted",
                "null",
                "null_check",
                "untuned",
                "model",
                "visual_datasets",
                "text_datasets",
            ),
            *("method", "base_model", "null_model"),
        ),
    script:
        "../workflow_scripts/select_adapted.py"


def compared_model(wildcards):
    """Return the model of a comparison."""
    return CFG.comparison(wildcards.comparison).model


def compared_activations(wildcards, dataset):
    """Return by layer the shards that a comparison's dictionary reads of its model shown a data set."""
    return FILES.read_by(CFG.comparison(wildcards.comparison).adapted, compared_model(wildcards), dataset)


def concept_tables(name, side):
    """Return an input function: tables of the data set of a concept's `target` or `baseline`."""

    def tables(wildcards):
        dataset = getattr(CFG.concepts[wildcards.concept], side).dataset
        return FILES.statistics(name, wildcards.comparison, wildcards.seed, [dataset])

    return tables


def concept_datasets(wildcards):
    """Return the data sets of a concept's target and, if it has one, its baseline."""
    return [side.dataset for side in CFG.concepts[wildcards.concept].sides.values()]


def concepts_by(contrast):
    """Return a pattern of the names of the concepts of a contrast; nothing fits it where there is none."""
    return "|".join(name for name, one in CFG.concepts.items() if one.contrast == contrast) or "(?!)"


def concept_shards(wildcards):
    """Return the shards of a comparison's model shown a concept's target, by layer."""
    return compared_activations(wildcards, concept_datasets(wildcards)[0])


rule contrast_concept:
    """Test which features fire more often where a concept is shown than where it is not."""
    input:
        target_statistics=concept_tables("statistics", "target"),
        target_totals=concept_tables("totals", "target"),
        baseline_statistics=concept_tables("statistics", "baseline"),
        baseline_totals=concept_tables("totals", "baseline"),
        samples=lambda wildcards: [FILES.samples(name) for name in concept_datasets(wildcards)],
        # A published dictionary has as many features as it has, whatever `architecture` says.
        dictionaries=compared("adapted", "cfg.json"),
    output:
        results(f"{CONCEPT}/contrast.parquet"),
    wildcard_constraints:
        concept=concepts_by("counts"),
    params:
        target=lambda wildcards: CFG.concepts[wildcards.concept].target.params(),
        baseline=lambda wildcards: CFG.concepts[wildcards.concept].baseline.params(),
        samples=lambda wildcards: [CFG.dataset(name).samples for name in concept_datasets(wildcards)],
        criteria=lambda wildcards: CFG.concept(wildcards.concept, wildcards.comparison).params(
            "target", "baseline", "unit", "words", "lexical", "compared", "contrast"
        ),
    script:
        "../workflow_scripts/contrast_concept.py"


rule contrast_text_matched:
    """Test which features tell the values of a label apart where the text is the same."""
    input:
        samples=lambda wildcards: FILES.samples(concept_datasets(wildcards)[0]),
        shards=lambda wildcards: once(concept_shards(wildcards).values()),
        dictionaries=compared("adapted"),
    output:
        results(f"{CONCEPT}/contrast.parquet"),
    wildcard_constraints:
        concept=concepts_by("text_matched"),
    threads: CFG.threads
    params:
        target=lambda wildcards: CFG.concepts[wildcards.concept].target.params(),
        samples=lambda wildcards: CFG.dataset(concept_datasets(wildcards)[0]).samples,
        layout=concept_shards,
        criteria=lambda wildcards: CFG.concepts[wildcards.concept].params(
            "target", "unit", "words", "lexical", "compared", "contrast"
        ),
    script:
        "../workflow_scripts/contrast_text_matched.py"


def shown_datasets(wildcards):
    """Return the data sets of a counterfactual concept: its target, then those whose activations are compared."""
    return [*concept_datasets(wildcards), *CFG.concepts[wildcards.concept].shown]


def compared_shards(wildcards):
    """Return the shards of the two data sets that a counterfactual concept compares, each by layer."""
    return [compared_activations(wildcards, name) for name in CFG.concepts[wildcards.concept].shown]


rule contrast_counterfactual:
    """Test which features a change of the image turns as it turns a label."""
    input:
        samples=lambda wildcards: [FILES.samples(name) for name in shown_datasets(wildcards)],
        shards=lambda wildcards: once(files for one in compared_shards(wildcards) for files in one.values()),
        dictionaries=compared("adapted"),
    output:
        results(f"{CONCEPT}/contrast.parquet"),
    wildcard_constraints:
        concept=concepts_by("counterfactual"),
    threads: CFG.threads
    params:
        target=lambda wildcards: CFG.concepts[wildcards.concept].target.params(),
        samples=lambda wildcards: [CFG.dataset(name).samples for name in shown_datasets(wildcards)],
        layout=compared_shards,
        criteria=lambda wildcards: CFG.concepts[wildcards.concept].params(
            "target", "unit", "words", "lexical", "compared", "contrast", "transformed", "against"
        ),
    script:
        "../workflow_scripts/contrast_counterfactual.py"


def lexical_criteria(wildcards):
    """Return when a candidate counts as invariant; any does without the lexical filter, which runs one model alone."""
    criteria = CFG.lexical.params("prompts", "samples", "describe_tokens")
    tried = (
        CFG.concepts[wildcards.concept].lexical and CFG.comparison(wildcards.comparison).method != CROSSCODER
    )
    return criteria if tried else criteria | {"variant": "none"}


rule lexical_filter:
    """Keep the candidates that fire on the image whatever the words of the prompt."""
    input:
        adapted=results(f"{FEATURES}/adapted.parquet"),
        contrast=results(f"{CONCEPT}/contrast.parquet"),
        dictionaries=compared("adapted"),
        top_samples=concept_tables("top_samples", "target"),
        totals=concept_tables("totals", "target"),
        samples=lambda wildcards: FILES.samples(concept_datasets(wildcards)[0]),
        model=lambda wildcards: FILES.model(compared_model(wildcards)),
        weights=lambda wildcards: FILES.weights(compared_model(wildcards)),
    output:
        results(f"{CONCEPT}/lexical.parquet"),
    threads: CFG.threads
    params:
        model=compared_model,
        subject=lambda wildcards: FILES.subject(compared_model(wildcards)),
        layers=LAYERS,
        target=lambda wildcards: CFG.concepts[wildcards.concept].target.params(),
        unit=lambda wildcards: CFG.concepts[wildcards.concept].unit,
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
        adapted=results(f"{FEATURES}/adapted.parquet"),
        contrast=results(f"{CONCEPT}/contrast.parquet"),
        lexical=results(f"{CONCEPT}/lexical.parquet"),
    output:
        funnel=shown(f"{CONCEPT}/funnel.csv", "Concepts", "Funnel"),
        final=shown(f"{CONCEPT}/final_features.csv", "Concepts", "Final features"),
        check=shown(f"{CONCEPT}/contrast_check.csv", "How sure are we", "Independent tokens or samples"),
    params:
        unit=lambda wildcards: CFG.concepts[wildcards.concept].unit,
        eps=lambda wildcards: CFG.comparison(wildcards.comparison).eps,
        fdr=lambda wildcards: CFG.concepts[wildcards.concept].fdr,
    script:
        "../workflow_scripts/select_features.py"
