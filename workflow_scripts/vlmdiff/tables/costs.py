"""Contract of the table on what a run cost."""

from vlmdiff.tables.columns import contract

COSTS = contract(
    "What the jobs of each rule took, from Snakemake's benchmark files; the most expensive rule first.",
    ("rule", "str", "name of the rule"),
    ("jobs", "int", "jobs whose latest run was measured"),
    ("wall_s", "float", "sum of their wall times in seconds"),
    ("wall_median_s", "float", "median wall time of a job in seconds"),
    ("wall_max_s", "float", "wall time of the longest job in seconds"),
    ("cpu_s", "float", "sum of their processor times in seconds"),
    ("memory_max_mb", "float", "largest resident memory of a job in MB"),
    ("share", "float", "wall_s as a fraction of that of all rules"),
)
