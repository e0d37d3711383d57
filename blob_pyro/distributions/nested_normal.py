"""One number with a density of its own, and a Gaussian of all others given it: Laplace's approximation, nested."""

from __future__ import annotations

import math
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.distributions.torch_distribution import TorchDistributionMixin
from scipy.interpolate import CubicSpline
from torch import Size, Tensor

from blob_pyro.distributions.arrowhead_normal import ArrowheadNormal
from blob_pyro.distributions.block_arrowhead_normal import BlockArrowheadNormal, from_blocks, to_blocks
from blob_pyro.distributions.tabulated import TabulatedDensity

__all__ = ["AtNode", "NestedNormal", "at_node", "nested", "slope_of"]

_AT_ONCE = 1 << 24  # numbers of factors of draws
_NEGLIGIBLE = 1e-15  # second moments of shares, of the largest


class AtNode(NamedTuple):
    """A Gaussian at a node: its mean, factor and stretch as `NestedNormal` has them; precisions of its own numbers."""

    loc: Tensor
    shared_scale_tril: Tensor
    stretch: Tensor
    own_precision: Tensor


class NestedNormal(TorchDistribution):
    r"""A vector of which one number ``w`` has any density, and the others are Gaussian given it.

    .. math:: q(\theta) = q(w)\, N(\theta_{-w}; m(w), C(w))

    as integrated nested Laplace approximations have it (Rue, Martino & Chopin 2009, section 3), but continuous: at
    ``K`` nodes of ``w`` the Gaussians are given, and between nodes the mean and the factor of the shared numbers are
    interpolated, by cubic splines (straight where a spline would take a diagonal below a tenth of its neighbours), so
    that the vector has a density, which is drawn from and scored without error. Beyond the nodes the Gaussian stays
    what it is at the last one.

    Given ``w`` the Gaussian is an arrowhead, with ``S`` shared numbers (``w`` not among them) and ``M`` own ones:
    ``shared = m_S(w) + L(w) z`` and ``own = m_M(w) + slope (stretch(w) (shared - m_S(w))) + own_scale e``. The noise
    ``own_scale`` does not depend on ``w``, nor does the slope but for a factor of each shared number.

    Args:
        index: the place of ``w`` in the vector, among the first ``S + 1`` numbers.
        density: of ``w``, `TabulatedDensity`; its nodes are the nodes.
        loc: of the other numbers at each node, ``K x (S + M)``.
        shared_scale_tril: ``L`` at each node, ``K x S x S``.
        stretch: at each node, ``K x S``.
        slope: ``M x S``; ``P x B x S`` with blocks, see `blob_pyro.distributions.BlockArrowheadNormal`.
        own_scale: ``M``, positive; with blocks lower-triangular factors, ``P x B x B``.
        widths: of the arrays that blocks are dealt out to; None without blocks.

    Raises:
        ValueError: if the shapes do not match.

    Example:
        >>> nodes = torch.linspace(-4.0, 4.0, 9)
        >>> density = TabulatedDensity(nodes, -0.5 * nodes**2)
        >>> none = torch.zeros(0, 1)
        >>> d = NestedNormal(0, density, nodes[:, None] ** 2, torch.ones(9, 1, 1), torch.ones(9, 1), none, none[:, 0])
        >>> d.mean.round(decimals=2), d.variance.round(decimals=2)  # of w, and of w^2 + z
        (tensor([0., 1.]), tensor([1., 3.]))
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        index: int,
        density: TabulatedDensity,
        loc: Tensor,
        shared_scale_tril: Tensor,
        stretch: Tensor,
        slope: Tensor,
        own_scale: Tensor,
        widths: tuple[int, ...] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        num_nodes, num_shared, num_own = len(density.nodes), slope.shape[-1], slope.shape[:-1].numel()
        expected = ((num_nodes, num_shared + num_own), (num_nodes, num_shared, num_shared), (num_nodes, num_shared))
        shapes = tuple(tuple(t.shape) for t in (loc, shared_scale_tril, stretch))
        own = slope.shape[:-1] if widths is None else (*slope.shape[:-1], slope.shape[-2])
        if shapes != expected or tuple(own_scale.shape) != tuple(own) or not 0 <= index <= num_shared:
            raise ValueError(
                f"NestedNormal: for {num_nodes} nodes and a slope of {tuple(slope.shape)} expected loc, "
                f"shared_scale_tril and stretch of shapes {expected}, own_scale of {tuple(own)}, and an index of at "
                f"most {num_shared}; got {shapes}, {tuple(own_scale.shape)} and {index}"
            )
        self.index, self.density, self.loc, self.shared_scale_tril = index, density, loc, shared_scale_tril
        self.stretch, self.slope, self.own_scale = stretch, slope, own_scale
        self.widths = None if widths is None else tuple(widths)
        super().__init__(Size(), Size((num_shared + num_own + 1,)), validate_args=validate_args)

    @property
    def num_shared(self) -> int:
        """The number of shared ones, ``w`` not among them, ``S``."""
        return self.slope.shape[-1]

    @property
    def num_nodes(self) -> int:
        """The number of nodes, ``K``."""
        return len(self.density.nodes)

    def expand(self, batch_shape: Size, _instance: TorchDistributionMixin | None = None) -> NestedNormal:
        """Return the same distribution with another batch shape; see `pyro.distributions.TorchDistribution.expand`."""
        new = self.with_density(self.density)
        new._batch_shape = Size(batch_shape)
        return new

    def with_density(self, density: TabulatedDensity, **changed: Tensor) -> NestedNormal:
        """Return it with another density of ``w`` at the same nodes, and other arguments where they are named."""
        names = ("loc", "shared_scale_tril", "stretch", "slope", "own_scale")
        parts = {name: changed.get(name, getattr(self, name)) for name in names}
        return NestedNormal(index=self.index, density=density, widths=self.widths, validate_args=False, **parts)

    # --- given w -------------------------------------------------------------------------------------------------

    @cached_property
    def _pieces(self) -> Tensor:
        """Polynomials between nodes, ``4 x (K - 1) x K``: of each node's share in what is interpolated."""
        nodes = self.density.nodes.detach().double().cpu()
        diagonals = self.shared_scale_tril.detach().diagonal(dim1=-2, dim2=-1).double().cpu()
        smooth = torch.from_numpy(CubicSpline(nodes.numpy(), torch.eye(len(nodes)).double().numpy()).c).contiguous()
        share = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None, None] * nodes.diff()[:, None]
        between = (((smooth[0] * share + smooth[1]) * share + smooth[2]) * share + smooth[3]) @ diagonals
        if bool((between < 0.1 * torch.minimum(diagonals[1:], diagonals[:-1])).any()):
            smooth = torch.zeros_like(smooth)
            number = torch.arange(len(nodes) - 1)
            smooth[3, number, number] = 1
            smooth[2, number, number], smooth[2, number, number + 1] = -1 / nodes.diff(), 1 / nodes.diff()
        return smooth.to(self.loc.device)

    def shares(self, w: Tensor) -> Tensor:
        """Return each node's share in what is interpolated at ``w``, ``N``: ``N x K`` float64; each row sums to 1."""
        nodes = self.density.nodes.double()
        inside = w.double().clamp(nodes[0], nodes[-1])
        gap = (torch.searchsorted(nodes, inside.detach().contiguous(), right=True) - 1).clamp(0, len(nodes) - 2)
        cubic, square, line, constant = self._pieces[:, gap]
        x = (inside - nodes[gap]).unsqueeze(-1)
        share: Tensor = ((cubic * x + square) * x + line) * x + constant
        return share

    def given(self, w: Tensor) -> ArrowheadNormal | BlockArrowheadNormal:
        """Return the Gaussian of the other numbers given one value of ``w``, a scalar: ``S + M`` numbers."""
        share = self.shares(w.reshape(1))[0].to(self.loc)
        return self._arrowhead(
            share @ self.loc, torch.einsum("k,kij->ij", share, self.shared_scale_tril), share @ self.stretch
        )

    def at_node(self, number: int) -> ArrowheadNormal | BlockArrowheadNormal:
        """Return the Gaussian of the other numbers at a node."""
        return self._arrowhead(self.loc[number], self.shared_scale_tril[number], self.stretch[number])

    @property
    def at_mode(self) -> Tensor:
        """The mean at the likeliest node, ``D``."""
        number = int(self.density.log_density.argmax())
        return self.together(self.density.nodes[number], self.loc[number])

    def _arrowhead(self, loc: Tensor, tril: Tensor, stretch: Tensor) -> ArrowheadNormal | BlockArrowheadNormal:
        loading = (self.slope * stretch) @ tril
        if self.widths is None:
            return ArrowheadNormal(loc, tril, loading, self.own_scale, validate_args=False)
        return BlockArrowheadNormal(loc, tril, loading, self.own_scale, self.widths, validate_args=False)

    @cached_property
    def node_weights(self) -> Tensor:
        """The probability of each node if ``w`` is rounded to nodes, ``K``: by the trapezoidal rule."""
        return self.density.node_weights.to(self.loc)

    def without(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Split vectors, ``... x D``, into ``w``, ``...``, and the others, ``... x (D - 1)``."""
        return value[..., self.index], torch.cat([value[..., : self.index], value[..., self.index + 1 :]], -1)

    def together(self, w: Tensor, others: Tensor) -> Tensor:
        """Put ``w``, ``...``, in its place among the others, ``... x (D - 1)``."""
        return torch.cat([others[..., : self.index], w.unsqueeze(-1), others[..., self.index :]], -1)

    # --- the vector ----------------------------------------------------------------------------------------------

    def _pulled(self, shared: Tensor) -> Tensor:
        """What stretched deviations of shared numbers, ``N x S``, do to own ones, ``N x M`` in the vector's order."""
        slope = self.slope if self.widths is None else from_blocks(self.slope.movedim(-1, 0), self.widths).mT
        return shared @ slope.mT

    def _own_noise(self, e: Tensor) -> Tensor:
        if self.widths is None:
            return self.own_scale * e
        blocks = to_blocks(e, len(self.slope), self.widths).unsqueeze(-1)
        return from_blocks((self.own_scale @ blocks).squeeze(-1), self.widths)

    def _whiten_own(self, deviation: Tensor) -> Tensor:
        if self.widths is None:
            return deviation / self.own_scale
        blocks = to_blocks(deviation, len(self.slope), self.widths).unsqueeze(-1)
        return from_blocks(torch.linalg.solve_triangular(self.own_scale, blocks, upper=False).squeeze(-1), self.widths)

    def rsample(self, sample_shape: Size | tuple[int, ...] = Size()) -> Tensor:  # noqa: B008 - torch's own default
        """Draw values, ``sample_shape x batch_shape x D``."""
        shape = self._extended_shape(Size(sample_shape))
        number = shape[:-1].numel()
        w = self.density.rsample((number,)).to(self.loc)
        noise = torch.randn(number, shape[-1] - 1, dtype=self.loc.dtype, device=self.loc.device)
        z, e = noise.split([self.num_shared, noise.shape[-1] - self.num_shared], -1)
        share = self.shares(w).to(self.loc)
        deviation = torch.zeros_like(z)
        for column, tril in zip(share.unbind(-1), self.shared_scale_tril):
            deviation = deviation + column.unsqueeze(-1) * (z @ tril.mT)
        own = self._pulled(deviation * (share @ self.stretch)) + self._own_noise(e)
        return self.together(w, share @ self.loc + torch.cat([deviation, own], -1)).view(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density, in the shape of ``value`` without its last dimension."""
        if self._validate_args:
            self._validate_sample(value)
        flat = value.reshape(-1, value.shape[-1])
        at_once = max(1, _AT_ONCE // max(1, self.num_shared**2))
        found = torch.cat([self._log_prob(part) for part in flat.split(at_once)]) if len(flat) else flat.sum(-1)
        return found.view(value.shape[:-1])

    def _log_prob(self, value: Tensor) -> Tensor:
        w, others = self.without(value)
        share = self.shares(w).to(self.loc)
        shared, own = (others - share @ self.loc).split([self.num_shared, others.shape[-1] - self.num_shared], -1)
        tril = torch.einsum("nk,kij->nij", share, self.shared_scale_tril)
        z = torch.linalg.solve_triangular(tril, shared.unsqueeze(-1), upper=False).squeeze(-1)
        e = self._whiten_own(own - self._pulled(shared * (share @ self.stretch)))
        own_scale = self.own_scale if self.widths is None else self.own_scale.diagonal(dim1=-2, dim2=-1)
        half_log_det = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1) + own_scale.log().sum()
        quadratic = z.square().sum(-1) + e.square().sum(-1)
        log_density: Tensor = -0.5 * (quadratic + others.shape[-1] * math.log(2 * math.pi)) - half_log_det
        return log_density + self.density.log_prob(w)

    def entropy(self) -> Tensor:
        """Return the differential entropy in nats, ``batch_shape``: of ``w``, and of the others on average over it."""
        points, weights = self.density.quadrature()
        diagonal = self.shares(points) @ self.shared_scale_tril.diagonal(dim1=-2, dim2=-1).double()
        own_scale = self.own_scale if self.widths is None else self.own_scale.diagonal(dim1=-2, dim2=-1)
        half_log_det = weights @ diagonal.log().sum(-1) + own_scale.double().log().sum()
        others = 0.5 * (self.event_shape[0] - 1) * (1 + math.log(2 * math.pi)) + half_log_det
        entropy: Tensor = self.density.entropy() + others
        return entropy.to(self.loc).expand(self.batch_shape)

    @cached_property
    def _roots(self) -> Tensor:
        """``R``, ``K x K`` with ``R' R`` the second moments of the nodes' shares over ``w``."""
        points, weights = self.density.quadrature()
        share = self.shares(points)
        values, axes = torch.linalg.eigh((share.mT * weights) @ share)
        roots: Tensor = (values.clamp(min=0).sqrt() * axes).mT
        return roots.to(self.loc)

    def second_moment_roots(self, start: int, stop: int, center: Tensor) -> Tensor:
        """Return vectors whose outer products sum to ``E (x - center)(x - center)'``, for some shared numbers ``x``.

        Args:
            start: where they begin in the vector; they are side by side, after ``w`` or before it.
            stop: where they end.
            center: ``stop - start``.
        """
        here = slice(start - (start > self.index), stop - (stop > self.index))
        of_loc = self._roots @ (self.loc[:, here] - center)
        factors = torch.einsum("nk,kij->nji", self._roots, self.shared_scale_tril[:, here])
        return torch.cat([of_loc, factors.flatten(0, 1)])

    @cached_property
    def _mean(self) -> Tensor:
        """The mean of each number, ``D``."""
        points, weights = self.density.quadrature()
        mean_share, mean = weights @ self.shares(points), torch.zeros_like(self.loc[0])
        for weight, loc in zip(mean_share.to(self.loc), self.loc):
            mean = mean + weight * loc  # in an order of its own, however many numbers there are
        return self.together(self.density.mean, mean)

    @cached_property
    def _variance(self) -> Tensor:
        """The variance of each number, ``D``: a covariance of shared numbers at each point of quadrature."""
        points, weights = self.density.quadrature()
        roots, deviation = self._roots, self.loc - self.without(self._mean)[1]
        of_loc = torch.einsum("nk,kd->nd", roots, deviation).square().sum(0)
        of_shared = torch.einsum("nk,kij->nij", roots, self.shared_scale_tril).square().sum((0, 2))
        of_own = self._own_variance(points, weights)
        noise = self.own_scale.square()
        noise = noise if self.widths is None else from_blocks(noise.sum(-1), self.widths)
        variance = of_loc + torch.cat([of_shared, of_own + noise])
        return self.together(self.density.variance, variance)

    def _own_variance(self, points: Tensor, weights: Tensor) -> Tensor:
        """The variance of own numbers that shared ones give them, averaged over ``w``, ``M``.

        The stretched factor is a sum over pairs of nodes of the products of their shares, whose second moments over
        ``w`` have few directions: a factor for each of these takes the place of one for each point of quadrature.
        """
        slope = self.slope if self.widths is None else from_blocks(self.slope.movedim(-1, 0), self.widths).mT
        share = self.shares(points)
        pairs = (share.unsqueeze(-1) * share.unsqueeze(-2)).flatten(1)
        values, axes = torch.linalg.eigh((pairs.mT * weights) @ pairs)
        here = values > _NEGLIGIBLE * values[-1]
        directions = (values[here].sqrt() * axes[:, here]).mT.to(self.loc).unflatten(-1, share.shape[1:] * 2)
        covariance = self.loc.new_zeros(self.num_shared, self.num_shared)
        for part in (directions @ self.stretch).split(16):  # directions x K x S
            factor = torch.einsum("nki,kij->inj", part, self.shared_scale_tril).flatten(1)
            covariance = covariance + factor @ factor.mT
        return ((slope @ covariance) * slope).sum(-1)

    @property
    def mean(self) -> Tensor:
        """The mean of each number, ``batch_shape x D``."""
        return self._mean.expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """The variance of each number, ``batch_shape x D``."""
        return self._variance.expand(self.batch_shape + self.event_shape)

    @property
    def covariance_matrix(self) -> Tensor:
        """The covariance in full, ``batch_shape x D x D``: by quadrature over ``w``."""
        points, weights = self.density.quadrature()
        slope = self.slope if self.widths is None else from_blocks(self.slope.movedim(-1, 0), self.widths).mT
        total = self.loc.new_zeros(2 * self.event_shape)
        for part, weight in zip(points.split(16), weights.split(16)):
            share = self.shares(part).to(self.loc)
            tril = torch.einsum("nk,kij->nij", share, self.shared_scale_tril)
            factor = torch.cat([tril, slope @ ((share @ self.stretch).unsqueeze(-1) * tril)], -2)
            factor = self.together(factor.new_zeros(factor.shape[::2]), factor.mT).mT
            away = self.together(part.to(self.loc), share @ self.loc) - self._mean
            factor = torch.cat([factor, away.unsqueeze(-1)], -1) * weight.to(self.loc).sqrt()[:, None, None]
            flat = factor.movedim(0, -1).flatten(1)
            total = total + flat @ flat.mT
        noise = self._own_noise(torch.eye(slope.shape[0]).to(self.loc))
        own = torch.nn.functional.pad(noise.mT @ noise, (self.num_shared + 1, 0, self.num_shared + 1, 0))
        return (total + own).expand(self.batch_shape + total.shape)

    def gaussian(
        self, at: Tensor | None = None, spread: Tensor | None = None
    ) -> ArrowheadNormal | BlockArrowheadNormal:
        """Return a Gaussian of the vector that is straight in ``w``: that given a value, along a secant of the mean.

        For what has to start somewhere: skew is lost, and the covariance's change with ``w``.

        Args:
            at: mean of ``w``; default the density's.
            spread: standard deviation of ``w``; default the density's.

        Returns:
            Of the whole vector in its order, ``1 + S + M``, with ``w`` among the ``S + 1`` shared numbers; with blocks
            a `BlockArrowheadNormal`.
        """
        w = self.density.mean if at is None else at
        spread = self.density.variance.sqrt() if spread is None else spread
        here = self.given(w)
        ahead, behind = self.given(w + spread).loc, self.given(w - spread).loc
        secant = self.together(spread, (ahead - behind) / 2)  # of one standard deviation of w
        size = self.num_shared + 1
        common = torch.cat([self.together(w.new_zeros(self.num_shared), here.common_factor.mT).mT, secant[:, None]], 1)
        tril = torch.linalg.cholesky((common[:size] @ common[:size].mT).double()).to(common)
        loading = torch.linalg.solve_triangular(tril, common[:size] @ common[size:].mT, upper=False).mT
        loc = self.together(w, here.loc)
        if isinstance(here, BlockArrowheadNormal):
            assert self.widths is not None, "it has blocks"
            blocks = to_blocks(loading.mT, len(self.slope), self.widths).movedim(0, -1)
            return BlockArrowheadNormal(loc, tril, blocks, self.own_scale, self.widths, validate_args=False)
        return ArrowheadNormal(loc, tril, loading, self.own_scale, validate_args=False)


def slope_of(gaussian: ArrowheadNormal | BlockArrowheadNormal) -> Tensor:
    """Return what own numbers follow of each shared one, ``M x S`` or ``P x B x S``: a `NestedNormal`'s slope."""
    slope: Tensor = torch.linalg.solve_triangular(gaussian.shared_scale_tril, gaussian.loading, upper=False, left=False)
    return slope


def at_node(gaussian: ArrowheadNormal | BlockArrowheadNormal, slope: Tensor) -> AtNode:
    """Say what a Gaussian is in terms of a common slope: its own slope comes as near as a factor a column brings it.

    Args:
        gaussian: of all numbers but ``w``.
        slope: that all nodes have in common.
    """
    dims = tuple(range(slope.dim() - 1))
    square = slope.square().sum(dims)
    along = (slope_of(gaussian) * slope).sum(dims) / torch.where(square > 0, square, 1)
    stretch = torch.where(square > 0, along, 1)
    if isinstance(gaussian, BlockArrowheadNormal):
        own = torch.cholesky_inverse(gaussian.own_scale_tril)
    else:
        own = gaussian.scale.square().reciprocal()
    return AtNode(gaussian.loc, gaussian.shared_scale_tril, stretch, own)


def nested(
    index: int, density: TabulatedDensity, nodes: list[AtNode], slope: Tensor, widths: tuple[int, ...] | None
) -> NestedNormal:
    """Put Gaussians at nodes together; the noise of own numbers has their precision on average over the density.

    Args:
        index: of ``w``, see `NestedNormal`.
        density: of ``w``.
        nodes: of its nodes.
        slope: that they are in terms of, see `at_node`.
        widths: see `NestedNormal`.
    """
    loc, tril, stretch, _ = (torch.stack(parts) for parts in zip(*nodes))
    weights = density.node_weights.to(loc)
    precision = torch.zeros_like(nodes[0].own_precision)
    for weight, node in zip(weights, nodes):
        precision = precision + weight * node.own_precision
    own_scale = precision.rsqrt() if widths is None else torch.linalg.cholesky(torch.linalg.inv(precision))
    return NestedNormal(index, density, loc, tril, stretch, slope, own_scale, widths, validate_args=False)
