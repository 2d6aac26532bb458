"""Averages of products ``A_i B_i``, for factors of which the average of products is no product.

What an average of factors leaves out, or the average itself, becomes a low-rank matrix again by a
thin QR of the stacked factors and the SVD of the small matrix between them, in float64: nothing of
the size ``(in, out)`` is made. Singular values beyond a form's rank are cut off, which is said in
the log with what they weigh.

The base is never touched: it is quantized, signed, and the same on all devices. What other
implementations add to its weights travels here as the form's *carried* adapter, of bounded rank.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...privacy.noise import Doubles
from ...shared.adapters import Array
from ...shared.forms import SharedForm

__all__ = ["Combine", "Upload", "average_in_carried", "fit_to_ranks", "mean_and_residual"]

_log = logging.getLogger("locavore.server")
_NOTHING = 1e-6  # of the largest singular value: rounding of float32 factors


@dataclass(frozen=True, eq=False)
class Upload:
    """One device's update: the change of what it trained, and its rank. sensitive."""

    change: Array
    rank: int


Combine = Callable[[SharedForm, Array, Sequence[Upload]], Array]
"""``(form, theta (dim,), uploads)`` to the next ``theta``."""

Pair = tuple[Doubles, Doubles]


def mean_and_residual(form: SharedForm, theta: Array, uploads: Sequence[Upload]) -> Array:
    """Average the factors, and carry what that leaves out of the average of products.

    ``mean(A_i B_i) - mean(A) mean(B) = mean((A_i - mean A)(B_i - mean B))``. Source: FedEx-LoRA,
    arXiv:2410.09432, §3, whose residual goes into the base.
    """
    result = _Vector(form)
    carried = _carried(form, theta)
    for site, pairs in _sites(form, theta, uploads):
        a, b = (np.mean([pair[i] for pair in pairs], axis=0) for i in range(2))
        rest = [((ai - a) / len(pairs), bi - b) for ai, bi in pairs]
        result.add(site, (a, b), _leading([*rest, carried[site]], form.carried, site))
    return result.packed()


def average_in_carried(form: SharedForm, theta: Array, uploads: Sequence[Upload]) -> Array:
    """Add the average of products to the carried adapter; the factors begin anew.

    Source: FLoRA, arXiv:2409.05976, §3: stacked factors are sent to all devices and added to the
    base. Here the stack is kept within the carried rank.
    """
    result = _Vector(form)
    carried = _carried(form, theta)
    for site, pairs in _sites(form, theta, uploads):
        stack = [(a / len(pairs), b) for a, b in pairs]
        result.add(site, None, _leading([carried[site], *stack], form.carried, site))
    return result.packed()


def fit_to_ranks(form: SharedForm, theta: Array, uploads: Sequence[Upload]) -> Array:
    """The best approximation of the average of products that has the form's rank.

    Directions are in the order of their weight, so a smaller device's prefix is the best of its
    rank. Columns of ``A`` keep the lengths of the public ones, so that learning rates keep their
    meaning; where the average has a lower rank, the public directions stand. Source: FlexLoRA,
    arXiv:2402.11505, §3.
    """
    result = _Vector(form)
    for site, pairs in _sites(form, theta, uploads):
        public, _ = form.directions.factors[site]
        stack = [(a / len(pairs), b) for a, b in pairs]
        u, s, v = _svd(stack)
        u, s, v = _cut(u, s, v, form.rank, site)
        a, b = public.astype(np.float64), np.zeros((form.rank, v.shape[1]))
        lengths = np.linalg.norm(a, axis=0)
        live = int(np.count_nonzero(s > _NOTHING * max(float(s[0]), 1e-30)))
        a[:, :live] = u[:, :live] * lengths[:live]
        b[:live] = (s[:live] / lengths[:live])[:, None] * v[:live]
        result.add(site, (a, b), None)
    return result.packed()


class _Vector:
    """A vector of a form, put together site by site."""

    def __init__(self, form: SharedForm) -> None:
        self.form = form
        self._main: list[Array] = []
        self._tail: list[Array] = []

    def add(self, site: str, factors: Pair | None, carried: Pair | None) -> None:
        """A site's factors (None: as at the start) and its part of the carried adapter."""
        public, up = self.form.directions.factors[site]
        a, b = (public, np.zeros(up.shape)) if factors is None else factors
        self._main += [(a - public).astype(np.float32).ravel(), b.astype(np.float32).ravel()]
        if carried is not None:
            self._tail += [part.astype(np.float32).ravel() for part in carried]

    def packed(self) -> Array:
        return np.concatenate([*self._main, *self._tail])


def _sites(
    form: SharedForm, theta: Array, uploads: Sequence[Upload]
) -> Iterator[tuple[str, list[Pair]]]:
    """Every site with every device's factors, in an order that the updates' own bytes give."""
    ordered = sorted(uploads, key=lambda upload: (upload.rank, upload.change.tobytes()))
    owners = [_factors(form, theta, upload) for upload in ordered]
    for site in form.directions.factors:
        yield site, [own[site] for own in owners]


def _factors(form: SharedForm, theta: Array, upload: Upload) -> dict[str, Pair]:
    """One device's trained ``A (in, r)`` and ``B (r, out)`` at every site."""
    own = form if upload.rank == form.rank else form.limited(upload.rank)
    trained = theta.copy() if own is form else theta[form.prefix(upload.rank)]
    trained[: own.main] += upload.change
    parts = own.unpack(trained)
    return {
        site: (
            public.astype(np.float64) + parts[f"{site}.A"],
            parts[f"{site}.B"].astype(np.float64),
        )
        for site, (public, _) in own.directions.factors.items()
    }


def _carried(form: SharedForm, theta: Array) -> dict[str, Pair]:
    adapter = form.carry(theta)
    assert adapter is not None
    return {
        site: (a.astype(np.float64), b.astype(np.float64))
        for site, (a, b) in adapter.factors.items()
    }


def _svd(pairs: Sequence[Pair]) -> tuple[Doubles, Doubles, Doubles]:
    """SVD of ``sum A_i B_i``: ``(in, k)``, ``(k,)``, ``(k, out)``."""
    qa, ra = np.linalg.qr(np.concatenate([a for a, _ in pairs], axis=1))
    qb, rb = np.linalg.qr(np.concatenate([b for _, b in pairs], axis=0).T)
    u, s, v = np.linalg.svd(ra @ rb.T)
    k = min(len(s), qa.shape[1], qb.shape[1])
    return qa @ u[:, :k], s[:k], v[:k] @ qb.T


def _cut(
    u: Doubles, s: Doubles, v: Doubles, rank: int, site: str
) -> tuple[Doubles, Doubles, Doubles]:
    lost, whole = float(np.linalg.norm(s[rank:])), float(np.linalg.norm(s))
    if lost > _NOTHING * max(whole, 1e-30):
        share = lost / whole
        _log.info("%s: rank %d leaves out %.1e of the average's length", site, rank, share)
    return u[:, :rank], s[:rank], v[:rank]


def _leading(pairs: Sequence[Pair], rank: int, site: str) -> Pair:
    """Factors ``(in, rank)`` and ``(rank, out)`` of a sum of products, filled up with zeros."""
    u, s, v = _cut(*_svd(pairs), rank, site)
    root = np.sqrt(s)
    a, b = np.zeros((u.shape[0], rank)), np.zeros((rank, v.shape[1]))
    a[:, : len(s)], b[: len(s)] = u * root, root[:, None] * v
    return a, b
