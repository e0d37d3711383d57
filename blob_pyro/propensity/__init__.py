"""Distributions over the index of the largest score: exact Thompson-sampling propensities.

On a GPU Python waits whenever it looks at a value. This happens at most so often, whatever the number of contexts that
fit in memory at once (for 30 actions, with arguments checked; the checks are most of what construction reads):

====================================  ============  =====  ======
distribution                          construction  probs  sample
====================================  ============  =====  ======
`ArgmaxNormal`, `ArgmaxLogNormal`                4      4       1
`ArgmaxBeta`                                     6     20       1
`ArgmaxConditionallyNormal`                      3      4       1
`ArgmaxNormalMixture`                            4      4       1
`ArgmaxLowRankNormal`                            9      6       1
`ArgmaxMultivariateNormal`                      11      8       3
`Argmax` (and its base's checks)                 2     24       1
`RankNormal`                                     4      9       0
`RankBeta`                                       6     16       0
`interpolated_argmax_normal_probs`            none     20    none
====================================  ============  =====  ======

`log_prob` of played actions, where it does not compute those of all actions, reads about 40 times.
"""

from blob_pyro.propensity._index import Propensity
from blob_pyro.propensity.argmax import Argmax
from blob_pyro.propensity.argmax_beta import ArgmaxBeta
from blob_pyro.propensity.argmax_conditionally_normal import ArgmaxConditionallyNormal, PropensityToleranceWarning
from blob_pyro.propensity.argmax_low_rank_normal import ArgmaxLowRankNormal
from blob_pyro.propensity.argmax_multivariate_normal import ArgmaxMultivariateNormal
from blob_pyro.propensity.argmax_normal import ArgmaxLogNormal, ArgmaxNormal
from blob_pyro.propensity.argmax_normal_mixture import ArgmaxNormalMixture
from blob_pyro.propensity.interpolation import interpolated_argmax_normal_probs
from blob_pyro.propensity.kernels.normal import argmax_normal_log_probs
from blob_pyro.propensity.ranks import RankBeta, RankNormal

__all__ = [
    "Argmax",
    "ArgmaxBeta",
    "ArgmaxConditionallyNormal",
    "ArgmaxLogNormal",
    "ArgmaxLowRankNormal",
    "ArgmaxMultivariateNormal",
    "ArgmaxNormal",
    "ArgmaxNormalMixture",
    "Propensity",
    "PropensityToleranceWarning",
    "RankBeta",
    "RankNormal",
    "argmax_normal_log_probs",
    "interpolated_argmax_normal_probs",
]
