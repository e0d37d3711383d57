"""Names of sample sites and plates: what a model, its guides and its diagnostics share."""

from blob_pyro.ops.renamed import renamed_in_module

__all__ = [
    "BETA_DEVIATION",
    "CLICK",
    "EARLIER",
    "EVENTS",
    "INTEREST",
    "ITEM_EMBEDDING",
    "ITEM_INTERCEPT",
    "KAPPA",
    "MULTIVARIATE",
    "SCALES",
    "SESSIONS",
    "VIEWS",
    "W_A",
    "W_B",
    "W_C",
    "ZETA",
]

# organic model
SESSIONS = "sessions"
INTEREST = "omega"
VIEWS = "views"
ITEM_EMBEDDING = "psi"
ITEM_INTERCEPT = "rho"

# bandit model
EVENTS = "events"
W_A = "w_a"
W_B = "w_b"
W_C = "w_c"
KAPPA = "kappa"
BETA_DEVIATION = "beta_deviation"  # items' own betas, where a term gives them some
ZETA = "zeta"
CLICK = "click"
SCALES = "learned_scales"  # the prior of these: a factor
EARLIER = "earlier_events"  # what the events of earlier fits say of learned scales: a factor
MULTIVARIATE = "multivariate"  # the vector that all global sites are dealt out from, where they are correlated

__getattr__ = renamed_in_module(__name__, {"JOINT": "MULTIVARIATE"}, globals())
