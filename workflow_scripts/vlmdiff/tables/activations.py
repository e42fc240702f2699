"""Contracts of the tables about what stays and what is left out of the activations."""

from vlmdiff.tables.columns import contract

FIRST, MASSIVE, KEPT = "first", "massive", "kept"
MOST = 0.5  # share of the squared norms from which a hundredth of the tokens carries too much

WHERE = (
    ("layer", "int", "decoder block"),
    (
        "kind",
        "str",
        "first: the first token of a sequence; massive: a token whose norm is above "
        "`extraction.massive_ratio` times the median of its sample's tokens of its type; kept: the data",
    ),
    ("token_type", "str", "text or image, of massive tokens"),
    ("token_id", "int", "token in the model's vocabulary, of massive tokens; -1 for others"),
    ("token", "str", "its text, quoted"),
    ("n_tokens", "int", "tokens"),
    ("position_min", "int", "first position in the model's sequence"),
    ("position_max", "int", "last position"),
)
LEFT_OUT_PARTS = contract(
    "Sums over the tokens of one shard, left out or kept; one row a layer, kind and massive token.",
    *WHERE,
    ("norm", "float", "sum of the norms of their residuals"),
    ("multiple_max", "float", "largest norm as a multiple of that median; 0 for first tokens"),
    ("squares", "float", "sum of squared norms"),
    ("strongest", "float", "squared norms of the strongest hundredth of each batch"),
    ("distance", "float", "sum of squared distances from the mean of the shard's kept tokens"),
)
LEFT_OUT = contract(
    "Tokens that are left out of the activations of a model shown a data set, and those that are kept.",
    ("model", "str", "name of the model in the config"),
    ("dataset", "str", "name of the data set"),
    *WHERE,
    ("mean_norm", "float", "mean norm of their residuals"),
    ("multiple_max", "float", "largest norm as a multiple of that median; 0 for first tokens"),
    (
        "variance_share",
        "float",
        "their part of the squared distances from the mean of the kept tokens: of all tokens for `first`, "
        "of all but the first tokens for `massive` and `kept`",
    ),
    (
        "strongest_share",
        "float",
        "part of the squared norms that the strongest hundredth of the kept tokens carries; NaN for others",
    ),
)
