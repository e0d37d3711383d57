"""A guide whose fits end as Ctrl-C ends them."""

from blob_pyro.guides import LaplaceGuide
from blob_pyro.infer import fit_guide
from blob_pyro.infer.laplace.fit import fit_laplace


class Stopped(LaplaceGuide):
    """One whose fits Ctrl-C ends."""


@fit_guide.register
def _(guide: Stopped, request):
    trace = fit_laplace(guide, request.model, request.batch, progress=False)
    trace.attrs["interrupted"] = True
    return trace
