"""``locavore device rate``, ``learn``, ``unlearn`` and ``subject``: what records train."""

from __future__ import annotations

from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Optional

import typer

from .device_cli import InKeyring, KeyFile, console, opened, say
from .home import find_base
from .member_cli import device_app
from .shared.errors import MissingExtraError

__all__ = ["device_app"]


class Verdict(StrEnum):
    """What a person says of an answer."""

    LIKED = "liked"
    DISLIKED = "disliked"


class Objective(StrEnum):
    """What is learned from the records."""

    SFT = "sft"
    DPO = "dpo"


@device_app.command("rate")
def rate(
    path: Annotated[Path, typer.Argument(help="A picture, or a text that answers a request.")],
    request: Annotated[str, typer.Argument(help="What it shows, or what it answers.")],
    verdict: Annotated[Verdict, typer.Argument(help="What you say of it.")],
    key_file: KeyFile = None,
    keyring: InKeyring = False,
) -> None:
    """Keep an answer that you liked or disliked, for 'learn --objective dpo'."""
    from .client.importers import rated_answer

    record = rated_answer(path, request, verdict.value)
    with opened(key_file, keyring) as device:
        say(f"remembered {device.remember(record)}")


@device_app.command("learn")
def learn(
    base: Annotated[str, typer.Option(help="A built base, by name or path.")],
    objective: Annotated[
        Objective,
        typer.Option(help="sft imitates your records; dpo prefers what you liked to what not."),
    ] = Objective.SFT,
    steps: Annotated[int, typer.Option(help="Training steps a slice.")] = 4,
    beta: Annotated[
        Optional[float],  # noqa: UP045  # typer reads this form
        typer.Option(help="Of dpo, hold on the base: usually 0.1 (text), 2500 (pictures)."),
    ] = None,
    rank: Annotated[int, typer.Option(help="Of the adapter, the same for all its slices.")] = 4,
    key_file: KeyFile = None,
    keyring: InKeyring = False,
) -> None:
    """Train this base's private adapter on what is new; needs the extra 'train'."""
    if find_spec("torch") is None:
        raise MissingExtraError("train", "training")
    from .client.training.private import PrivateTraining, SliceTrainer

    package = find_base(base)
    with opened(key_file, keyring) as device, console.status("training"):
        training = PrivateTraining(rank=rank, steps=steps)
        trainer = SliceTrainer.of(package, training, objective=objective.value, beta=beta)
        count = device.learn(trainer)
        lineage = device.store.lineages.of(package.base_id)
        slices, digest = len(lineage.slices), lineage.private_digest or "none"
    say(
        f"learned {count} records; private adapter {digest[:12]} of {package.base_id}, "
        f"{slices} slices"
    )


@device_app.command("unlearn")
def unlearn(
    base_id: Annotated[str, typer.Argument(help="Of the base, as 'locavore device stats' says.")],
    key_file: KeyFile = None,
    keyring: InKeyring = False,
) -> None:
    """Destroy a base's private adapter; the records stay, and count as new for it."""
    with opened(key_file, keyring) as device:
        device.unlearn(base_id)
    say(f"the private adapter of {base_id} is destroyed")


@device_app.command("subject")
def subject(
    name: Annotated[str, typer.Argument(help="What it is called; '<NAME>' stands for it.")],
    kind: Annotated[str, typer.Argument(help="What kind of thing it is, such as 'cat'.")],
    pictures: Annotated[list[Path], typer.Argument(help="Files of it.")],
    base: Annotated[str, typer.Option(help="A built image base, by name or path.")],
    way: Annotated[
        str, typer.Option(help="textual-inversion, custom-diffusion or dreambooth.")
    ] = "dreambooth",
    steps: Annotated[int, typer.Option(help="Training steps.")] = 150,
    prior: Annotated[int, typer.Option(help="Pictures of the kind that are kept in mind.")] = 32,
    key_file: KeyFile = None,
    keyring: InKeyring = False,
) -> None:
    """Keep pictures of a thing of yours, and learn to draw it; needs the extra 'train'."""
    if any(find_spec(module) is None for module in ("torch", "diffusers")):
        raise MissingExtraError("train", "training")
    from .client.image_model import ImageModel
    from .client.training.concepts import SubjectTraining, learn_subject
    from .client.training.image import ImageTwin
    from .shared.contexts import Consent, PersonalizedSubject
    from .shared.forms import Directions
    from .shared.pictures import Picture

    package = find_base(base)
    model = ImageModel(package)
    seen = [Picture.load(path, model.size) for path in pictures]
    how = SubjectTraining(way=way, steps=steps, prior=prior)  # type: ignore[arg-type]
    record = PersonalizedSubject(
        name=name,
        media=tuple(picture.encoded("png") for picture in seen),
        media_type="image/png",
        caption=kind,
        consent=Consent(retrieve=True, train=True),
    )
    with opened(key_file, keyring) as device, console.status("learning"):
        concept = learn_subject(
            ImageTwin.of(package, fast=True),
            model,
            Directions.load(package.path("directions.safetensors")),
            seen,
            f"<{name}>",
            kind,
            how,
        )
        with device.store.transaction():
            device.remember(record)
            device.store.keep_concept(record.id, concept)
    say(f"learned <{name}> from {len(seen)} pictures, record {record.id}")
