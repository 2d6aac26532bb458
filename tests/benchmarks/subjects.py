"""Things of one's own: what each way of learning them gives, and what it costs the kind of thing.

Real subjects that an artist has drawn several times; some drawings are kept back. *Error* is
the denoising error on these, under the kind for the base and under the word for the others. Drawn
are captions that were not trained on. The *subject score* is the mean cosine of drawings to the
subject's kept-back drawings, in the built-in tower's eyes. *Diversity* is how different sixteen
drawings of the bare kind are from each other, and *drift* how much more they look like the subject
than the base's do: prior preservation is for these two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from locavore.client.image_model import Drawing, ImageModel
from locavore.client.training.concepts import SubjectTraining, learn_subject
from locavore.client.training.image import ImageTwin
from locavore.home import find_base
from locavore.server.simulation.gallery import load_gallery
from locavore.shared.forms import Directions
from locavore.shared.metrics.towers import drawing_towers
from locavore.shared.pictures import Picture, Pixels

from .report import Goal, Options, Report, machine_line

__all__ = ["run"]

BASE = "drawings-32-int8"
SUBJECTS = {  # artist and subject, and the kind in the base's words
    "Nicu Buculei/smiley": "smiling face",
    "Jose Hevia/home": "house",
    "Nicu Buculei/clock": "clock",
    "Nicu Buculei/tree rpg map elements": "tree",
}
CAPTIONS = ("my {}", "small {}", "{} in blue", "new {}")  # none of them is trained on
DRAWN = 4  # of a caption
KINDS = 16
BASE_ROW = "base"

WAYS: Mapping[str, SubjectTraining] = {
    "textual inversion": SubjectTraining(
        way="textual-inversion", rows=2, steps=150, batch=8, learning_rate=0.1
    ),
    "custom diffusion": SubjectTraining(way="custom-diffusion", steps=200, learning_rate=3e-3),
    "dreambooth": SubjectTraining(way="dreambooth", steps=150),
    "dreambooth, no prior": SubjectTraining(way="dreambooth", steps=150, prior=0),
}
GOALS = (
    Goal(name="textual inversion: error / base", bound=0.95, at_most=True),
    Goal(name="textual inversion: subject score above the base's", bound=0.02),
    Goal(name="dreambooth: subject score above the base's", bound=0.05),
    Goal(name="dreambooth: diversity / base", bound=0.85),
    Goal(name="dreambooth: drift / without prior", bound=0.8, at_most=True),
)


@dataclass(frozen=True)
class _Figures:
    error: float
    subject: float
    diversity: float
    drift: float


def run(options: Options) -> Report:
    """Learn every subject in every way, and draw."""
    package = find_base(options.bases[0] if options.bases else BASE)
    model = ImageModel(package)
    directions = Directions.load(package.path("directions.safetensors"))
    gallery = load_gallery("subjects")
    chosen = dict(list(SUBJECTS.items())[: 1 if options.quick else None])
    rows: dict[str, list[_Figures]] = {name: [] for name in (BASE_ROW, *WAYS)}
    for name, kind in chosen.items():
        artist = gallery.artist(name)
        real = np.stack([picture.pixels for picture in artist.held_out])
        shown = [Picture(picture.pixels) for picture in artist.train]
        plain = _drawn(model, [caption.format(kind) for caption in CAPTIONS])
        kinds = _drawn(model, [kind] * (KINDS // DRAWN))
        known = _likeness(kinds, real)
        kept = [Picture(pixels) for pixels in real]
        error = _error(model, kept, kind)
        rows[BASE_ROW].append(_Figures(error, _likeness(plain, real), _diversity(kinds), 0.0))
        for way, how in WAYS.items():
            quick = replace(how, steps=10, prior=min(how.prior, 4)) if options.quick else how
            twin = ImageTwin.of(package)
            concept = learn_subject(twin, model, directions, shown, "<it>", kind, quick)
            model.use_tokens({"<it>": concept.rows})
            model.attach(*([concept.adapter] if concept.adapter else []))
            error = _error(model, kept, "<it>")
            own = _drawn(model, [caption.format("<it>") for caption in CAPTIONS])
            after = _drawn(model, [kind] * (KINDS // DRAWN))
            model.use_tokens({})
            model.attach()
            rows[way].append(
                _Figures(
                    error,
                    _likeness(own, real),
                    _diversity(after),
                    _likeness(after, real) - known,
                )
            )
    return _report({name: _mean(found) for name, found in rows.items()}, len(chosen))


def _drawn(model: ImageModel, prompts: Sequence[str]) -> Pixels:
    pictures = model.generate([p for p in prompts for _ in range(DRAWN)], Drawing(seed=1))
    pixels: Pixels = np.stack([picture.pixels for picture in pictures])
    return pixels


def _error(model: ImageModel, pictures: Sequence[Picture], caption: str) -> float:
    return float(model.errors(pictures, [caption] * len(pictures), draws=16).mean())


def _likeness(drawn: Pixels, real: Pixels) -> float:
    a, b = (_unit(drawing_towers().looks.embed_images(x)) for x in (drawn, real))
    return float((a @ b.T).mean())


def _diversity(drawn: Pixels) -> float:
    unit = _unit(drawing_towers().looks.embed_images(drawn))
    cosines = unit @ unit.T
    return float(1 - cosines[~np.eye(len(unit), dtype=bool)].mean())


def _unit(rows: np.ndarray) -> np.ndarray:
    found: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


def _mean(found: Sequence[_Figures]) -> _Figures:
    columns = [[getattr(one, name) for one in found] for name in _Figures.__annotations__]
    return _Figures(*(float(np.mean(column)) for column in columns))


def _report(rows: Mapping[str, _Figures], subjects: int) -> Report:
    base, bare = rows[BASE_ROW], rows["dreambooth, no prior"]
    booth = rows["dreambooth"]
    return Report(
        benchmark="subjects",
        lines=(
            machine_line(),
            f"{subjects} subjects by artists that the base never saw; {len(CAPTIONS)} captions "
            f"that were not trained on, {DRAWN} drawings each; cosines in the tower drawings-looks",
        ),
        columns=("way", "error", "subject score", "diversity of the kind", "drift of the kind"),
        rows=tuple(
            (name, f"{r.error:.3f}", f"{r.subject:.3f}", f"{r.diversity:.3f}", f"{r.drift:+.3f}")
            for name, r in rows.items()
        ),
        ratios={
            GOALS[0].name: rows["textual inversion"].error / base.error,
            GOALS[1].name: rows["textual inversion"].subject - base.subject,
            GOALS[2].name: booth.subject - base.subject,
            GOALS[3].name: booth.diversity / base.diversity,
            GOALS[4].name: booth.drift / bare.drift if bare.drift > 0 else 0.0,
        },
        goals=GOALS,
    )
