"""Tokens read off an update: the gradient of a small matrix spans what went into it.

The gradient of a matrix ``W`` in ``y = u W`` is the sum over tokens of ``u_t^T g_t``, so its
columns are combinations of the tokens' ``u_t``. While there are fewer tokens than rows and columns,
a token that was there lies in their span and another one does not (DAGER: Petrov et al.,
arXiv:2405.15586, Sections 3 and 4). What of a layer's input ``x`` a form's gradient shows:

- ``lora``: ``A`` is ``(in, r)`` and shows ``x`` itself, in ``r`` dimensions a site, once ``B`` is
  not zero; layers that share an input add up.
- ``ffa`` and ``core``: ``x A``, which has ``r`` numbers. From ``r`` tokens on the span is
  everything and tells nothing.

Clipping keeps a span as it is; other records and noise fill it up. A layer of the first block sees
each token alone, which gives the set of tokens; deeper ones see prefixes, which gives their order.
The last token goes into nothing that is trained on: it is a label only.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ...privacy.noise import Doubles
from ...shared.adapters import Array
from ...shared.errors import BadInputError
from ...shared.forms import SharedForm
from ..training.adapted import shared_chains
from ..training.branches import Pass, attached
from ..training.chains import site_module
from ..training.exchange import Exchange
from ..training.text import TextTwin
from .updates import Released

__all__ = ["Span", "SpanReader"]

_AT_ONCE = 256  # sequences in a pass
_MARGIN = 1.1  # times the largest singular value that noise is expected to have
_ROUNDING = float(np.finfo(np.float32).eps) * 12**-0.5  # deviation, of a number of size 1
_INEXACT = 1e-5  # of the largest singular value: what sums in float32 leave beside the span
_DEEP = 8  # spans by which the order is told, at most


@dataclass(frozen=True, eq=False)
class Span:
    """The span that one gradient shows.

    Args:
        group: of sites that get the same input.
        down: public ``(in, r)`` through which the input goes first; None where it is seen itself.
        basis: ``(rows, k)`` orthonormal, of what stands out of the noise.
        open: whether the gradient could have had more dimensions than it has: then the span holds
            every token that was there, and does not hold all others.
    """

    group: int
    down: torch.Tensor | None
    basis: torch.Tensor
    open: bool

    def distance(self, x: torch.Tensor) -> torch.Tensor:
        """Share of inputs ``(B, in)`` that lies outside, ``(B,)``: 0 for what is in the span."""
        u = x if self.down is None else x @ self.down
        inside = torch.linalg.vector_norm(u @ self.basis, dim=1)
        whole = torch.linalg.vector_norm(u, dim=1).clamp(min=1e-12)
        outside: torch.Tensor = (1 - (inside / whole).square()).clamp(min=0).sqrt()
        return outside


class SpanReader:
    """Reads updates of one round of one form.

    Args:
        twin, form, theta, start: see :class:`~.updates.Releases`.

    Raises:
        BadInputError: no layer sees tokens alone, such as where positions are added to them.
    """

    def __init__(
        self, twin: TextTwin, form: SharedForm, theta: Array, start: Sequence[int] = ()
    ) -> None:
        self._twin, self._form, self._theta, self._start = twin, form, theta, list(start)
        self._cohort = twin.cohort(shared_chains(form))
        values = torch.from_numpy(theta[None].astype(np.float32))
        if not form.plain:
            values = Exchange(form, twin).opened(values, None)
        self._values = self._cohort.unpack(values)
        self._sites = list(form.directions.factors)
        self._groups = self._shared_inputs()
        if not self._alone:
            raise BadInputError("no layer of this base sees tokens alone; spans cannot be read")

    @cached_property
    def vocabulary(self) -> int:
        """Tokens that there can be."""
        return int(self._twin.model.get_input_embeddings().num_embeddings)

    def spans(self, seen: Released) -> list[Span]:
        """What an update shows; open spans alone where there are any."""
        found = [*self._spans(seen)]
        deep, alone = (
            [span for span in found if (span.group in self._alone) == side]
            for side in (False, True)
        )
        return [span for part in (alone, deep) for span in _open_first(part)]

    def token_distances(self, spans: Sequence[Span]) -> Doubles:
        """How far each token of the vocabulary lies from the spans ``(V,)``; 0 is in all.

        The public tokens in front of each record are infinitely far.
        """
        alone = [span for span in spans if span.group in self._alone]
        total = sum(span.distance(self._tokens[span.group]) for span in alone)
        assert isinstance(total, torch.Tensor)
        found: Doubles = (total / len(alone)).double().numpy()
        found[self._start] = np.inf
        return found

    def ordered(self, spans: Sequence[Span], bag: Sequence[int], length: int) -> list[int]:
        """The most plausible sequence of tokens of a bag, each chosen after those before it."""
        deep = [span for span in spans if span.group not in self._alone][:_DEEP]
        groups = {span.group for span in deep}
        found: list[int] = []
        while len(found) < length:
            inputs = self._last_inputs([[*self._start, *found, token] for token in bag], groups)
            apart = torch.stack([span.distance(inputs[span.group]) for span in deep]).mean(0)
            found.append(bag[int(apart.argmin())])
        return found

    # --- inside ---------------------------------------------------------------------------------

    def _spans(self, seen: Released) -> Iterator[Span]:
        parts = self._form.unpack(seen.change.astype(np.float32))
        begin = self._form.unpack(self._theta)
        for (group, letter, _), matrices in itertools.groupby(self._matrices(), lambda m: m[:3]):
            sites = [(matrix, down) for *_, matrix, down in matrices]
            whole = np.concatenate([parts[matrix.name] for matrix, _ in sites], 1)
            values = [begin[m.name] + (down if letter == "A" else 0.0) for m, down in sites]
            deviation = float(np.hypot(seen.noise, _ROUNDING * max(map(_rms, values))))
            down = None if letter == "A" else torch.from_numpy(sites[0][1])
            yield _span(group, down, whole, deviation)

    def _matrices(self) -> list[tuple[Any, ...]]:
        """Group of inputs, letter, which public ``A``; the matrix and its ``A``; in that order."""
        known: list[Array] = []
        found = []
        for matrix in self._form.shared:
            down = self._form.directions.factors[matrix.site][0]
            same = [i for i, other in enumerate(known) if np.array_equal(other, down)]
            if not same:
                known.append(down)
            which = 0 if matrix.letter == "A" else (same or [len(known) - 1])[0]
            found.append((self._groups[matrix.site], matrix.letter, which, matrix, down))
        return sorted(found, key=lambda row: row[:3])

    @cached_property
    def _tokens(self) -> Mapping[int, torch.Tensor]:
        """What a layer that sees tokens alone gets of each, ``(V, in)`` by group."""
        return self._last_inputs([[token] for token in range(self.vocabulary)], self._alone)

    def _shared_inputs(self) -> dict[str, int]:
        """Which sites get the same input; of these, which see the last token alone."""
        third, other = (self._raw_inputs([ids], self._sites) for ids in ([1, 2, 3], [4, 3]))
        groups: dict[str, int] = {}
        firsts: list[str] = []
        for site in self._sites:
            same = [i for i, first in enumerate(firsts) if torch.equal(third[first], third[site])]
            groups[site] = same[0] if same else len(firsts)
            if not same:
                firsts.append(site)
        self._firsts = firsts
        self._alone = {
            i
            for i, site in enumerate(firsts)
            if torch.allclose(third[site], other[site], rtol=1e-4, atol=1e-6)
        }
        return groups

    def _last_inputs(
        self, sequences: Sequence[Sequence[int]], groups: Collection[int]
    ) -> dict[int, torch.Tensor]:
        """Inputs at the last of sequences of one length, ``(B, in)`` by group."""
        sites = {group: self._firsts[group] for group in groups}
        parts = [
            self._raw_inputs(sequences[first : first + _AT_ONCE], sites.values())
            for first in range(0, len(sequences), _AT_ONCE)
        ]
        return {i: torch.cat([part[site] for part in parts]) for i, site in sites.items()}

    def _raw_inputs(
        self, sequences: Sequence[Sequence[int]], sites: Collection[str]
    ) -> dict[str, torch.Tensor]:
        """By site; layers behind the last of the sites are not run."""
        caught: dict[str, torch.Tensor] = {}

        def catch(site: str) -> Any:
            def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                x = args[0] if args else next(iter(kwargs.values()))
                caught[site] = x.reshape(len(sequences), -1, x.shape[-1])[:, -1].float().cpu()
                if len(caught) == len(sites):
                    raise _AllSeen

            return hook

        model = self._cohort.model
        ids = torch.tensor([*sequences], device=self._cohort.device)
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(attached(model, self._cohort.chains, Pass(self._values)))
            for site in sites:
                handle = site_module(model, site).register_forward_pre_hook(
                    catch(site), with_kwargs=True
                )
                stack.callback(handle.remove)
            stack.enter_context(suppress(_AllSeen))
            model.base_model(input_ids=ids, use_cache=False)  # type: ignore[operator]
        return caught


class _AllSeen(Exception):
    """Ends a pass through the base once every input that is wanted was seen."""


def _span(group: int, down: torch.Tensor | None, gradient: Array, deviation: float) -> Span:
    """Directions whose singular value noise alone does not reach; one at least."""
    u, sizes, _ = np.linalg.svd(gradient.astype(np.float64), full_matrices=False)
    rows, columns = gradient.shape
    edge = max(_MARGIN * deviation * (rows**0.5 + columns**0.5), _INEXACT * float(sizes[0]))
    above = int((sizes > edge).sum())
    kept = max(1, min(above, rows - 1))
    basis = torch.from_numpy(u[:, :kept].astype(np.float32))
    return Span(group, down, basis, 0 < above < min(rows, columns))


def _rms(values: Array) -> float:
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))


def _open_first(spans: Sequence[Span]) -> list[Span]:
    return [span for span in spans if span.open] or list(spans)
