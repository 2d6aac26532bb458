"""The study of pictures: does a base draw as the person draws?

People are design teams, artists, writers of glyphs: everybody with pictures and captions. What is
held out are captions that nobody trained on. An arm is judged by how little the person's own
picture surprises the denoiser, and by what it draws for the caption itself.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...client.captioned import picture_record
from ...client.device import Device
from ...client.image_model import Drawing, ImageModel
from ...client.retrieval import Hit
from ...shared.adapters import Adapter, Array
from ...shared.contexts import Consent
from ...shared.errors import BadInputError
from ...shared.image_tokens import MOST_PICTURES
from ...shared.metrics.local import clip_t, paired_distance, personalization
from ...shared.metrics.towers import DrawingTowers, drawing_towers
from ...shared.packages import Package
from ...shared.pictures import Picture, Pixels
from .config import BASE, PRIVATE, RETRIEVAL, SHARED, SimulationConfig
from .gallery import TASK_DATA, Artist, Gallery, load_gallery
from .person import SimulatedPerson
from .study import Made, Metric, Study

__all__ = ["Drawer", "PictureStudy", "picture_study"]

_REFERENCE = 64  # of a person's pictures: enough to know their style
_GUIDANCE = 3.5  # less loses the caption where an adapter is live
_SHOWN = 6  # rows of a person's grid in the report


@dataclass(frozen=True)
class _Item:
    """A held-out picture and its caption."""

    picture: Picture
    caption: str


@dataclass(kw_only=True)
class Drawer(SimulatedPerson):
    """Somebody who draws.

    Args:
        items: the pictures that nobody trained on.
        how: pictures are drawn.
        draws: of time and noise, by which a held-out picture is judged.
        reference_pixels: ``(N, H, W, 3)``, of the device's own pictures, that others are held to.
    """

    items: tuple[_Item, ...]
    reference_pixels: Pixels
    how: Drawing
    draws: int

    @property
    def held_out(self) -> tuple[_Item, ...]:
        """The pictures that nobody trained on."""
        return self.items

    @property
    def model(self) -> ImageModel:
        """The base's runtime."""
        model = self.device.model
        assert isinstance(model, ImageModel)
        return model

    def losses(self, adapters: Sequence[Adapter], *, retrieval: bool = False) -> list[Array]:
        """Denoising errors of every held-out picture, at the same times and noise in all arms."""
        self.model.attach(*adapters)
        pictures = [item.picture for item in self.items]
        captions = [item.caption for item in self.items]
        found = self._found(captions) if retrieval else []
        errors = self.model.errors(
            pictures,
            captions,
            draws=self.draws,
            seed=self.how.seed,
            references=[own for _, own in found],
        )
        return list(errors)

    def make(
        self, adapters: Sequence[Adapter], count: int, *, retrieval: bool = False
    ) -> list[Made]:
        """Draw the first ``count`` held-out captions."""
        self.model.attach(*adapters)
        captions = [item.caption for item in self.items[:count]]
        found = self._found(captions) if retrieval else []
        drawn = self.model.generate(captions, self.how, references=[own for _, own in found])
        hits = [hits for hits, _ in found] or [()] * len(drawn)
        return [Made(picture, used) for picture, used in zip(drawn, hits, strict=True)]

    def _found(self, captions: Sequence[str]) -> list[tuple[tuple[Hit, ...], tuple[Picture, ...]]]:
        """The device's own pictures that fit each caption best, as a request would find them."""
        most = MOST_PICTURES
        guided = (
            self.device.guide(
                caption, k=most, budget=most, cost=lambda _: 1, about=False, newest=most
            )
            for caption in captions
        )
        return [self.model.pictured(guidance.exemplars) for guidance in guided]


@dataclass(kw_only=True)
class PictureStudy(Study):
    """People with pictures.

    Args:
        gallery: the people.
        most: held-out pictures of a person at most.
        how: pictures are drawn; its seed also draws the noise by which losses are measured.
        draws: of time and noise for a held-out picture.
    """

    gallery: Gallery
    most: int = 24
    how: Drawing = Drawing()  # noqa: RUF009  # frozen
    draws: int = 8

    loss: ClassVar = Metric(
        "loss",
        "denoising error",
        "The mean squared error with which the base guesses the noise in a person's real pictures "
        "that nobody trained on, over evenly spread amounts of noise: how surprised it is. Lower "
        "is better.",
        4,
    )
    metrics: ClassVar = (
        Metric(
            "paired",
            "paired distance@ drawings-looks",
            "How far a picture drawn for a caption is from the person's own of the same caption: "
            "1 - cosine in a small tower of ours; 0 is the same. Lower is better.",
            3,
        ),
        Metric(
            "personal",
            "Personal P@ drawings-styles",
            "P = (s - floor) / (ceiling - floor). s is the similarity in style of the drawn "
            "pictures to the person's; floor is that of other people's real pictures, ceiling that "
            "of the person's own unseen ones. 0 looks like anybody's, 1 like the person's. A dash: "
            "the measure cannot tell these people apart.",
        ),
        Metric(
            "clip_t",
            "clip_t@ drawings-concepts",
            "Cosine of a drawn picture and its caption, in a small tower of ours: does it show "
            "what was asked for? Higher is better.",
        ),
    )
    held_out: ClassVar = "pictures"
    arms: ClassVar = (BASE, SHARED, f"{SHARED} + {PRIVATE}")
    notes: ClassVar = (
        "No device has a picture of a held-out caption.",
        "Losses and pictures come from the ONNX runtime; adapters were trained on its torch twin.",
    )
    glossary: ClassVar = {
        RETRIEVAL: "The base looks at the person's own pictures that fit the caption best.",
    }

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be at least 1, got {getattr(self, name)}"
            for name in ("most", "draws")
            if getattr(self, name) < 1
        ]
        if problems:
            raise BadInputError("; ".join(problems))

    @property
    def data_name(self) -> str:  # type: ignore[override]  # nobody sets it
        """The gallery's, with a warning where no person made it."""
        synthetic = self.gallery.kind == "synthetic"
        return f"{self.gallery.name} (synthetic)" if synthetic else self.gallery.name

    @property
    def devices(self) -> int:  # type: ignore[override]  # nobody sets it
        """Number of people."""
        return len(self.gallery.artists)

    @property
    def towers(self) -> DrawingTowers:
        """Whose features pictures are compared in."""
        return drawing_towers()

    def arms_of(self, package: Package) -> tuple[str, ...]:
        """With retrieval too, where the base looks at pictures."""
        if "image_tokens" not in package.manifest.details:
            return self.arms
        found, *others = self.arms
        return (found, f"{found} + {RETRIEVAL}", *others, f"{others[-1]} + {RETRIEVAL}")

    def people(self, package: Package, config: SimulationConfig, folder: Path) -> list[Drawer]:
        """A device for everybody."""
        model = ImageModel(package)
        return [self._drawer(a, model, folder / a.name) for a in self.gallery.artists]

    def _drawer(self, artist: Artist, model: ImageModel, folder: Path) -> Drawer:
        folder.mkdir(parents=True, exist_ok=True)
        device = Device(model)
        device.remember_all(
            [
                picture_record(Picture(p.pixels), p.caption, id=str(i), consent=Consent.full())
                for i, p in enumerate(artist.train)
            ]
        )
        spread = np.linspace(0, len(artist.held_out) - 1, min(self.most, len(artist.held_out)))
        chosen = [artist.held_out[int(i)] for i in spread]
        items = tuple(_Item(Picture(p.pixels).resized(model.size), p.caption) for p in chosen)
        return Drawer(
            name=artist.name,
            device=device,
            folder=folder,
            items=items,
            reference_pixels=_pixels(
                [Picture(p.pixels).resized(model.size) for p in artist.train[:_REFERENCE]]
            ),
            how=self.how,
            draws=self.draws,
        )

    def judge(
        self, person: SimulatedPerson, made: Sequence[Made], everybody: Sequence[SimulatedPerson]
    ) -> dict[str, float | None]:
        """Distance to the person's own pictures, and whose they look like."""
        assert isinstance(person, Drawer)
        drawn = _pixels([one.output for one in made])
        own = _pixels([item.picture for item in person.items])
        others = {
            other.name: _pixels([item.picture for item in other.held_out])
            for other in everybody
            if other.name != person.name and other.held_out
        }
        truths, captions = own[: len(drawn)], [i.caption for i in person.items[: len(drawn)]]
        score = None
        if others:
            styles = self.towers.styles
            score = personalization(styles, drawn, person.reference_pixels, own, others).score
        return {
            "paired": paired_distance(self.towers.looks, drawn, truths).value,
            "personal": score,
            "clip_t": clip_t(self.towers.concepts, drawn, captions).value,
        }

    def cost(self, config: SimulationConfig) -> tuple[float, float, float]:
        """In passes of a picture through the denoiser, forwards and backwards."""
        steps = self.how.steps or 24
        return 4.0, self.most * self.draws * 0.4, config.made * steps * 2 * 0.4

    def sample(self, person: SimulatedPerson, made: Mapping[str, Sequence[Made]]) -> dict[str, Any]:
        """A grid: caption, what every arm drew, and the person's own picture."""
        rows = []
        count = min(_SHOWN, *(len(pictures) for pictures in made.values()))
        for i, item in enumerate(person.held_out[:count]):
            drawn = [_shown(pictures[i].output, arm) for arm, pictures in made.items()]
            rows.append([item.caption, *drawn, _shown(item.picture, "the person's own")])
        return {"grid": {"head": ["caption", *made, "the person's own"], "rows": rows}}


def _pixels(pictures: Sequence[Picture]) -> Pixels:
    stacked: Pixels = np.stack([picture.pixels for picture in pictures])
    return stacked


def _shown(picture: Picture, said: str) -> dict[str, str]:
    return {"png": base64.b64encode(picture.encoded("png")).decode(), "said": said}


def picture_study(data: Path | None, devices: int, *, quick: bool, seed: int) -> PictureStudy:
    """The design teams and artists of the built-in drawings.

    Raises:
        BadInputError: a folder is given.
    """
    if data is not None:
        raise BadInputError("--data is not read for this task yet; its data are built in")
    gallery = load_gallery(TASK_DATA["image.general"][0])
    count = min(devices, 2) if quick else devices
    chosen = Gallery(name=gallery.name, kind=gallery.kind, artists=gallery.artists[:count])
    how = Drawing(seed=seed, steps=8 if quick else 20, guidance=_GUIDANCE)
    return PictureStudy(gallery=chosen, most=6 if quick else 24, how=how, draws=4 if quick else 8)
