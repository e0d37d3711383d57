"""Marginals that are known to be too narrow, by guide: measured by simulation-based calibration.

``python benchmarks/calibration.py --guides laplace --simulations 35``: six items in two dimensions, 800 events;
``w_a`` around -1, ``w_b`` and ``w_c`` around -2, each with a standard deviation of 1, and a kappa of scale 0.5. Of 35
true values of ``w_b`` 26 +- 7 % lay outside the 90 % interval, and the root mean square of their distances was 1.6
posterior standard deviations. Guides that are not here have not been measured.
"""

from __future__ import annotations

__all__ = ["TOO_NARROW"]

TOO_NARROW: dict[str, dict[str, float]] = {"laplace": {"w_b": 0.26}}
"""By guide and site the share of true values outside the central 90 % interval, where that is too large."""
