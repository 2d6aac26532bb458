"""Texts whose gradient looks like an update: gradient matching over discrete candidates.

As in TAG (Deng et al., arXiv:2103.06819) and LAMP (Balunović et al., arXiv:2202.08827) a text is
sought whose gradient is like what was seen, by the cosine, and a language model's own expectations
say what to try. Tokens are exchanged one at a time; nothing is optimised in embedding space.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ...privacy.noise import Doubles
from ...shared.adapters import Array
from ...shared.forms import SharedForm
from ..training.adapted import shared_chains
from ..training.branches import Pass, attached
from ..training.exchange import Exchange
from ..training.objectives.language import token_batch
from ..training.text import TextTwin
from .updates import Released

__all__ = ["GradientMatcher"]

_AT_ONCE = 64  # candidates in a pass


class GradientMatcher:
    """Compares candidates with an update of one round of one form.

    Args:
        twin, form, theta, start: see :class:`~.updates.Releases`.
    """

    def __init__(
        self, twin: TextTwin, form: SharedForm, theta: Array, start: Sequence[int] = ()
    ) -> None:
        self._start = list(start)
        self._cohort = twin.cohort(shared_chains(form))
        values = torch.from_numpy(theta[None].astype(np.float32))
        self._theta = values if form.plain else Exchange(form, twin).opened(values, None)

    def similarities(self, seen: Released, records: Sequence[Sequence[int]]) -> Doubles:
        """Cosine of a step on each record alone with what was seen, ``(B,)``."""
        change = torch.from_numpy(seen.change).float()
        found = []
        for first in range(0, len(records), _AT_ONCE):
            batch = token_batch(records[first : first + _AT_ONCE], self._start)
            parts = self._cohort.gradients(self._theta, batch).parts.values()
            steps = -torch.cat([part.flatten(1) for part in parts], 1).cpu()
            found.append(torch.cosine_similarity(steps, change[None], dim=1))
        cosines: Doubles = torch.cat(found).double().numpy()
        return cosines

    def refined(
        self, seen: Released, guess: Sequence[int], bag: Sequence[int], *, changes: int, likely: int
    ) -> list[int]:
        """The text after the best exchanges of single tokens, while they help.

        Args:
            guess: to begin with; of the record's length.
            bag: tokens that are tried at every place.
            changes: at most; each tries all places.
            likely: tokens that are tried besides, as the model expects them there.
        """
        best = list(guess)
        for _ in range(changes):
            tried = [best]
            for at in range(len(best)):
                tokens = {*bag, *self.expected(best[:at], likely)} - {best[at]}
                tried += [[*best[:at], token, *best[at + 1 :]] for token in sorted(tokens)]
            better = tried[int(self.similarities(seen, tried).argmax())]
            if better == best:
                break
            best = better
        return best

    def expected(self, prefix: Sequence[int], count: int) -> list[int]:
        """The tokens that the model expects most after a prefix; none where there is none."""
        ids = [*self._start, *prefix]
        if not ids or not count:
            return []
        values = self._cohort.unpack(self._theta)
        with torch.no_grad(), attached(self._cohort.model, self._cohort.chains, Pass(values)):
            given = torch.tensor([ids], device=self._cohort.device)
            logits = self._cohort.model(input_ids=given, use_cache=False).logits[0, -1]
        top: list[int] = logits.topk(min(count, len(logits))).indices.tolist()
        return top
