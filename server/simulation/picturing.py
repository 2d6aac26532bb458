"""The study of pictures: does a base draw what is the person's own?

People are design teams and artists, wearers and shoppers: everybody with pictures and captions. An
arm is judged by how little the person's own held-out pictures surprise the denoiser, and by what it
draws for their captions. What a task brings beside that is its row in :mod:`.picture_tasks`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...client.captioned import picture_record
from ...client.device import Device
from ...client.federated import MIN_RECORDS, records_needed
from ...client.image_model import Drawing, ImageModel
from ...client.retrieval import Hit
from ...shared.adapters import Adapter, Array
from ...shared.contexts import (
    Consent,
    Context,
    PersonalFaceBody,
    PersonalizedSubject,
    UserProfile,
)
from ...shared.errors import BadInputError
from ...shared.image_tokens import MOST_PICTURES
from ...shared.metrics.towers import drawing_towers
from ...shared.packages import Package
from ...shared.pictures import Picture, Pixels
from ...shared.tasks import TASKS, ContextKind
from .config import BASE, PRIVATE, RETRIEVAL, SHARED, SimulationConfig
from .gallery import Artist, Gallery
from .gallery import Picture as Shown
from .gallery.pictures import Mask
from .judging import Judged, Measure
from .person import SimulatedPerson
from .picture_tasks import PICTURE_TASKS, PictureTask
from .study import Made, Metric, Study

__all__ = ["Drawer", "Item", "PictureStudy", "picture_study"]

_REFERENCE = 64  # of a person's pictures: enough to know their style
_GUIDANCE = 3.5  # less loses the caption where an adapter is live
_SHOWN = 6  # rows of a person's grid in the report


@dataclass(frozen=True)
class Item:
    """A picture of the base's size, its caption, and all that the gallery knows of it."""

    picture: Picture
    caption: str
    shown: Shown

    @classmethod
    def of(cls, shown: Shown, size: tuple[int, int]) -> Item:
        """A gallery's picture, resized."""
        fitted = shown.at_size(size)
        return cls(Picture(fitted.pixels), fitted.caption, fitted)


@dataclass(kw_only=True)
class Drawer(SimulatedPerson):
    """Somebody who draws.

    Args:
        artist: the person, with what is true of them.
        items: the pictures that nobody trained on.
        known: of the device's own pictures, that others are held to.
        how: pictures are drawn.
        draws: of time and noise, by which a held-out picture is judged.
        drawn_on: see :class:`~.picture_tasks.PictureTask`.
        needed: records to train on.
        words: of the person's own, with their embeddings.
    """

    artist: Artist
    items: tuple[Item, ...]
    known: tuple[Item, ...]
    how: Drawing
    draws: int
    drawn_on: Callable[[Shown], tuple[Pixels, Mask]] | None = None
    needed: int = MIN_RECORDS
    words: Mapping[str, Array] = field(default_factory=dict)

    @property
    def held_out(self) -> tuple[Item, ...]:
        """The pictures that nobody trained on."""
        return self.items

    @property
    def trains(self) -> bool:
        """Whether there is enough to train on under the run's plan."""
        return self.records >= self.needed

    def asked(self, count: int) -> tuple[Item, ...]:
        """So many held-out pictures; again from the first where there are fewer."""
        return tuple(islice(cycle(self.items), count))

    @property
    def model(self) -> ImageModel:
        """The base's runtime."""
        model = self.device.model
        assert isinstance(model, ImageModel)
        return model

    def losses(self, adapters: Sequence[Adapter], *, retrieval: bool = False) -> list[Array]:
        """Denoising errors of every held-out picture, at the same times and noise in all arms."""
        self._wear(adapters)
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
        """Draw ``count`` held-out captions."""
        self._wear(adapters)
        items = self.asked(count)
        captions = [item.caption for item in items]
        found = self._found(captions) if retrieval else [((), ())] * len(items)
        references = [own for _, own in found]
        if self.drawn_on is None:
            drawn = self.model.generate(captions, self.how, references=references)
        else:
            drawn = [
                self._drawn(item, references[place], place) for place, item in enumerate(items)
            ]
        return [Made(picture, hits) for picture, (hits, _) in zip(drawn, found, strict=True)]

    def _wear(self, adapters: Sequence[Adapter]) -> None:
        self.model.use_tokens(self.words)
        self.model.attach(*adapters)

    def _drawn(self, item: Item, references: Sequence[Picture], place: int) -> Picture:
        """On the picture that the task gives, whatever was behind the mask."""
        assert self.drawn_on is not None
        start, mask = self.drawn_on(item.shown)
        how = replace(
            self.how, seed=self.how.seed + place, start=Picture(start), mask=mask, strength=1.0
        )
        return self.model.generate([item.caption], how, references=[references])[0]

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
        task: that is simulated.
        most: held-out pictures of a person at most.
        how: pictures are drawn; its seed also draws the noise by which losses are measured.
        draws: of time and noise for a held-out picture.
    """

    gallery: Gallery
    task: str = "image.general"
    most: int = 24
    how: Drawing = Drawing()  # noqa: RUF009  # frozen
    draws: int = 8
    drawer: ClassVar[type[Drawer]] = Drawer

    loss: ClassVar = Metric(
        "loss",
        "denoising error",
        "The mean squared error with which the base guesses the noise in a person's own pictures "
        "that nobody trained on, over evenly spread amounts of noise: how surprised it is. Lower "
        "is better.",
        4,
    )
    held_out: ClassVar = "pictures"
    arms: ClassVar[tuple[str, ...]] = (BASE, SHARED, f"{SHARED} + {PRIVATE}")
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
    def row(self) -> PictureTask:
        """What the task brings."""
        return PICTURE_TASKS[self.task]

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What drawn pictures are judged by: of real ones, nobody knows all that is true."""
        synthetic = self.gallery.kind == "synthetic"
        return tuple(measure for measure in self.row.measures if synthetic or not measure.invented)

    @property
    def metrics(self) -> tuple[Metric, ...]:  # type: ignore[override]  # nobody sets it
        """Their names."""
        return tuple(measure.metric for measure in self.measures)

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]  # nobody sets it
        """The task's, and what the data are."""
        built_in = self.gallery.name in self.row.people
        told = [self.row.note, self.row.data_note if built_in else ""]
        if self.gallery.kind == "synthetic":
            told.append(
                "The pictures are synthetic: a program drew them. They are no evidence "
                "about people."
            )
        trained = {p.caption for artist in self.gallery.artists for p in artist.train}
        if not any(p.caption in trained for a in self.gallery.artists for p in a.held_out):
            told.append("No device has a picture of a held-out caption.")
        return (
            *filter(None, told),
            "Losses and pictures come from the ONNX runtime; adapters were trained on "
            "its torch twin.",
        )

    @property
    def data_name(self) -> str:  # type: ignore[override]  # nobody sets it
        """The gallery's, with a warning where no person made it."""
        synthetic = self.gallery.kind == "synthetic"
        return f"{self.gallery.name} (synthetic)" if synthetic else self.gallery.name

    @property
    def devices(self) -> int:  # type: ignore[override]  # nobody sets it
        """Number of people."""
        return len(self.gallery.artists)

    def arms_of(self, package: Package) -> tuple[str, ...]:
        """With retrieval too, where the base looks at pictures."""
        if "image_tokens" not in package.manifest.details:
            return self.arms
        looking = (BASE, f"{SHARED} + {PRIVATE}")
        both = ((arm, f"{arm} + {RETRIEVAL}") if arm in looking else (arm,) for arm in self.arms)
        return tuple(chain.from_iterable(both))

    def people(self, package: Package, config: SimulationConfig, folder: Path) -> list[Drawer]:
        """A device for everybody."""
        model = ImageModel(package)
        needed = records_needed(config.plan)
        return [self._drawer(a, model, folder / a.name, needed) for a in self.gallery.artists]

    def _drawer(self, artist: Artist, model: ImageModel, folder: Path, needed: int) -> Drawer:
        folder.mkdir(parents=True, exist_ok=True)
        device = Device(model)
        device.remember_all(_records(artist, TASKS[self.task].context))
        return self.drawer(
            name=artist.name,
            device=device,
            folder=folder,
            artist=artist,
            items=tuple(Item.of(p, model.size) for p in _spread(artist.held_out, self.most)),
            known=tuple(Item.of(p, model.size) for p in artist.train[:_REFERENCE]),
            how=self.how,
            draws=self.draws,
            drawn_on=self.row.drawn_on,
            needed=needed,
        )

    def judge(
        self, person: SimulatedPerson, made: Sequence[Made], everybody: Sequence[SimulatedPerson]
    ) -> dict[str, float | None]:
        """The task's measures."""
        assert isinstance(person, Drawer)
        judged = Judged(
            drawn=[one.output.pixels for one in made],
            asked=[item.shown for item in person.asked(len(made))],
            own=[item.shown for item in person.items],
            known=[item.shown for item in person.known],
            others={
                other.name: [item.shown for item in other.held_out]
                for other in everybody
                if other.name != person.name and other.held_out
            },
            artist=person.artist,
            towers=drawing_towers(),
        )
        return {measure.metric.key: measure.of(judged) for measure in self.measures}

    def cost(self, config: SimulationConfig) -> tuple[float, float, float]:
        """In passes of a picture through the denoiser, forwards and backwards."""
        steps = self.how.steps or 24
        return 4.0, self.most * self.draws * 0.4, config.made * steps * 2 * 0.4

    def sample(self, person: SimulatedPerson, made: Mapping[str, Sequence[Made]]) -> dict[str, Any]:
        """A grid: caption, what every arm drew, and the person's own picture."""
        assert isinstance(person, Drawer)
        rows = []
        count = min(_SHOWN, *(len(pictures) for pictures in made.values()))
        for i, item in enumerate(person.asked(count)):
            drawn = [_shown(pictures[i].output, arm) for arm, pictures in made.items()]
            rows.append([item.caption, *drawn, _shown(item.picture, "the person's own")])
        return {"grid": {"head": ["caption", *made, "the person's own"], "rows": rows}}


def _spread(pictures: Sequence[Shown], most: int) -> list[Shown]:
    places = np.linspace(0, len(pictures) - 1, min(most, len(pictures)))
    return [pictures[int(place)] for place in places]


def _records(artist: Artist, context: ContextKind) -> list[Context]:
    """What the device keeps of a person: pictures that may be trained on, and what they tell."""
    records = [_record(p, str(i), context) for i, p in enumerate(artist.train)]
    if artist.profile:
        told = UserProfile(attributes=dict(artist.profile), consent=Consent(retrieve=True))
        return [*records, told]
    return records


def _record(shown: Shown, id: str, context: ContextKind) -> Context:
    picture, consent = Picture(shown.pixels), Consent.full()
    if context in ("behaviors", "profile"):
        return picture_record(picture, shown.caption, id=id, consent=consent)
    media, kind = picture.encoded("png"), "image/png"
    if context == "face_body":
        return PersonalFaceBody(
            media=media, media_type=kind, caption=shown.caption, id=id, consent=consent
        )
    return PersonalizedSubject(
        name=shown.caption, media=(media,), media_type=kind, id=id, consent=consent
    )


def _shown(picture: Picture, said: str) -> dict[str, str]:
    return {"png": base64.b64encode(picture.encoded("png")).decode(), "said": said}


def picture_study(
    data: Path | None, devices: int, *, quick: bool, seed: int, task: str = "image.general"
) -> PictureStudy:
    """The study of an image task.

    Args:
        data: the name of a built-in gallery of the task, or a folder of pictures.
        devices: people at most, where not a folder says who there is.
        quick: whether little work is wanted.
        seed: of the drawing, and of synthetic people.
        task: its id.

    Raises:
        BadInputError: the folder cannot be read.
    """
    gallery = PICTURE_TASKS[task].gallery(data, min(devices, 2) if quick else devices, seed)
    how = Drawing(seed=seed, steps=8 if quick else 20, guidance=_GUIDANCE)
    return PictureStudy(
        gallery=gallery, task=task, most=6 if quick else 24, how=how, draws=4 if quick else 8
    )
