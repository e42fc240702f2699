"""The experiment itself: what was asked for, what is made of it, and whether its results are whole."""

from vlmdiff.config import products

# Everything that the default target makes, the costs of making it aside.
EXPERIMENT = [results(file) for file in products.experiment(CFG)]
# What the summary tells of, by name; figures draw some of it, too.
TABLES = {name: [results(file) for file in files] for name, files in products.summary_tables(CFG).items()}


rule write_config:
    """Write the whole configuration, with everything that was filled in."""
    output:
        results("config.yaml"),
    params:
        config=CFG.model_dump(mode="json"),
    script:
        "../workflow_scripts/write_config.py"


rule sources:
    """Target: checkpoints, dictionaries and data sets from elsewhere, for nodes without a network."""
    input:
        [results(file) for file in products.sources(CFG)],


# It makes nothing, so that it runs whenever it is asked for, and needs nothing, so that it makes nothing stale.
rule verify:
    """Target: check all results against the records of the jobs that wrote them."""
    localrule: True
    params:
        experiment=FILES.folder,
    script:
        "../workflow_scripts/verify.py"
