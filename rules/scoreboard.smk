"""The scoreboard: ways of finding features side by side, held against the scene graphs of the built-in world."""

from vlmdiff.config.concepts import COUNTS
from vlmdiff.config.entries import control_entries, method_entries, submission_entries
from vlmdiff.config.scoreboard import board_of, board_seeds

BOARD = board_of(CFG)
SCORED_SEEDS = board_seeds(CFG) if BOARD else ()
RANKING = results("scoreboard/rankings/{comparison}/seed_{seed}/{concept}.parquet")


def certainty(concept):
    """Return what a contrast that goes by effect size asks for besides; None of counts."""
    return None if concept.contrast == COUNTS else facts(concept, "min_frequency", "fdr")


rule rank_findings:
    """Rank what a comparison's contrast finds, under each selection rule."""
    input:
        adapted=results(f"{FEATURES}/adapted.parquet"),
        contrast=results(f"{CONCEPT}/contrast.parquet"),
        lexical=results(f"{CONCEPT}/lexical.parquet"),
    output:
        RANKING,
    params:
        criteria=lambda wildcards: {
            "unit": CFG.concepts[wildcards.concept].unit,
            "lexical": lexical_criteria(wildcards)["variant"] != "none",
            "eps": CFG.comparison(wildcards.comparison).eps,
            "certainty": certainty(CFG.concepts[wildcards.concept]),
        },
    script:
        "../workflow_scripts/rank_findings.py"


def truth_shards(wildcards):
    """Return the shards of the data with scene graphs that a dictionary reads, by data set and layer."""
    return {name: FILES.read_by(wildcards.dictionary, CFG.diff.model, name) for name in TRUTH_DATA}


# Of the main comparison's dictionary the ground truth is part of the default run.
use rule score_ground_truth as score_other_dictionary with:
    input:
        samples=rules.score_ground_truth.input.samples,
        shards=lambda wildcards: once(
            files for layers in truth_shards(wildcards).values() for files in layers.values()
        ),
        dictionaries=lambda wildcards: FILES.dictionaries(wildcards.dictionary, wildcards.seed),
    output:
        features=results("scoreboard/truth/{dictionary}/seed_{seed}/features.parquet"),
        scores=results("scoreboard/truth/{dictionary}/seed_{seed}/label_scores.parquet"),
    params:
        layout=truth_shards,


def truth_of(wildcards):
    """Return what the features of a comparison's dictionary really tell."""
    name = CFG.comparison(wildcards.comparison).adapted
    folder = "ground_truth" if name == CFG.diff.adapted else f"scoreboard/truth/{name}"
    return results(f"{folder}/seed_{wildcards.seed}/features.parquet")


rule score_ranking:
    """Hold a ranking against what features really tell."""
    input:
        ranking=RANKING,
        truth=truth_of,
    output:
        scores=results("scoreboard/scores/{comparison}/seed_{seed}/{concept}.csv"),
        limits=results("scoreboard/limits/{comparison}/seed_{seed}/{concept}.csv"),
    params:
        by_effect_size=lambda wildcards: CFG.concepts[wildcards.concept].contrast != COUNTS,
    script:
        "../workflow_scripts/score_ranking.py"


rule score_submission:
    """Hold the scores of another method, from a file, against the scene graphs."""
    input:
        file=lambda wildcards: BOARD.submissions[wildcards.submission].file,
        truth=expand(results("ground_truth/seed_{seed}/features.parquet"), seed=SCORED_SEEDS),
        samples=rules.score_ground_truth.input.samples,
        shards=rules.score_ground_truth.input.shards,
    output:
        results("scoreboard/submissions/{submission}.csv"),
    wildcard_constraints:
        submission=one_of(BOARD.submissions if BOARD else ()),
    params:
        names=TRUTH_DATA,
        layout=TRUTH_SHARDS,
        seed=CFG.seed,
    script:
        "../workflow_scripts/score_submission.py"


use rule match_seeds as match_seeds_of_comparison with:
    input:
        dictionaries=lambda wildcards: [
            file
            for seed in SCORED_SEEDS
            for file in FILES.dictionaries(CFG.comparison(wildcards.comparison).adapted, seed)
        ],
        adapted=[results(f"features/{{comparison}}/seed_{seed}/adapted.parquet") for seed in SCORED_SEEDS],
        final=[
            results(f"features/{{comparison}}/seed_{seed}/{{concept}}/final_features.csv")
            for seed in SCORED_SEEDS
        ],
    output:
        results("scoreboard/recurrence/{comparison}/{concept}.csv"),


METHODS, SUBMISSIONS = method_entries(CFG, FILES.folder), submission_entries(CFG, FILES.folder)
CONTROL_ENTRIES = control_entries(CFG, FILES.folder)


rule summarise_scoreboard:
    """Put all methods, contrasts, rules and seeds side by side."""
    input:
        scores=[entry["scores"] for entry in METHODS + SUBMISSIONS],
        limits=[entry["limits"] for entry in METHODS],
        more=[entry[name] for entry in METHODS for name in ("selection", "recurrence") if entry[name]],
        controls=[entry.get("ranking") or entry["file"] for entry in CONTROL_ENTRIES],
    output:
        board=shown("scoreboard/scoreboard.csv", "Scoreboard", "Scoreboard"),
        limits=shown("scoreboard/limits.csv", "Scoreboard", "Other effect sizes"),
        finds=shown("scoreboard/control_finds.csv", "Scoreboard", "Finds in controls"),
        page=shown("scoreboard/scoreboard.md", "Scoreboard", "Page", "scoreboard_page"),
    params:
        methods=METHODS,
        submissions=SUBMISSIONS,
        controls=CONTROL_ENTRIES,
        benchmarks=results("benchmarks"),
        data=reported_data(CFG.ablation),
        layers=LAYERS,
        experiment=CFG.experiment,
    script:
        "../workflow_scripts/summarise_scoreboard.py"


rule plot_scoreboard:
    """Draw the scoreboard."""
    input:
        board=rules.summarise_scoreboard.output.board,
    output:
        **figure("scoreboard/scoreboard", "Scoreboard", "Scoreboard"),
    script:
        "../workflow_scripts/plot_scoreboard.py"


rule scoreboard:
    """Target: methods of diffing and contrasts side by side, held against the scene graphs."""
    input:
        [results(file) for file in products.scoreboard_products(CFG)],
