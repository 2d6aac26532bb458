"""``locavore audit``, of what leaks of records: ``extraction``, ``retrieval``, ``attributes``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console

from .audit_cli import Clip, Noise, Relation
from .device_cli import InKeyring, KeyFile, opened
from .home import find_base, vault_folder
from .shared.errors import BadInputError
from .terminal import require, say_section

if TYPE_CHECKING:
    from .client.retrieval import Embedder
    from .client.runtime import TextModel
    from .client.training.text import TextTwin
    from .shared.forms import Directions, FormName

__all__ = ["leaks_app"]

_PUBLIC = 400  # made-up texts that embeddings are inverted with
_MADE_UP = 200  # records where none are given

leaks_app = typer.Typer()  # a part of ``locavore audit``
console = Console(width=None if sys.stdout.isatty() else 100)

Base = Annotated[str, typer.Option(help="A built base, by name or path.")]
Out = Annotated[
    Optional[Path],  # noqa: UP045  # typer reads this form
    typer.Option(help="JSON file of findings and figures, for the report."),
]
Texts = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help='JSONL of {"text": ...}, a record a line; made up when not given.'),
]
Form = Annotated[str, typer.Option(help="Shared adapter: core (r x r) or ffa.")]
Rank = Annotated[int, typer.Option(help="Public directions per layer, of the shared adapter.")]
Batch = Annotated[int, typer.Option(help="Records per step of the shared adapter, on average.")]
LocalSteps = Annotated[int, typer.Option(help="Steps per round of the shared adapter.")]
PrivateSteps = Annotated[int, typer.Option(help="Steps of the private adapter.")]
Rate = Annotated[float, typer.Option(help="Learning rate of the private adapter.")]
Seed = Annotated[int, typer.Option(help="Of what is made up.")]


@leaks_app.command("extraction")
def audit_extraction(
    base: Base,
    records: Texts = None,
    canaries: Annotated[int, typer.Option(help="Secrets for each number of times.")] = 8,
    references: Annotated[int, typer.Option(help="Codes that a secret is ranked among.")] = 127,
    clip: Clip = 6.0,
    noise: Noise = 1.0,
    batch: Batch = 16,
    local_steps: LocalSteps = 1,
    rounds: Annotated[int, typer.Option(help="Rounds of the federation.")] = 3,
    relation: Relation = "add-or-remove-one",
    form: Form = "core",
    rank: Rank = 2,
    private_steps: PrivateSteps = 4,
    private_rate: Rate = 1e-3,
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Plant secrets among records, train adapters on them, and try to get them out again."""
    require("train", "this audit", "dp_accounting", "scipy", "torch")
    from .client.audit.extraction import ExtractionAudit
    from .client.training.private import PrivateTraining
    from .privacy.plan import RecordPlan

    twin, model, directions = _base(base)
    audit = ExtractionAudit(
        twin=twin,
        model=model,
        directions=directions,
        records=_texts(records, seed),
        plan=RecordPlan(
            clip=clip,
            noise_multiplier=noise,
            expected_batch=batch,
            local_steps=local_steps,
            rounds=rounds,
            relation=relation,  # type: ignore[arg-type]  # the plan refuses others in a sentence
        ),
        form=_form(form),
        rank=rank,
        private=PrivateTraining(steps=private_steps, learning_rate=private_rate),
        canaries=canaries,
        references=references,
        seed=seed,
    )
    say_section(console, audit.section(), out)


@leaks_app.command("retrieval")
def audit_retrieval(
    base: Base,
    mine: Annotated[
        bool, typer.Option("--mine", help="Attack this user's own vault, not a made-up one.")
    ] = False,
    encoder: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="A built text encoder; the base's own states when not given."),
    ] = None,
    public: Texts = None,
    attacks: Annotated[int, typer.Option(help="Prompts that are tried, at most.")] = 60,
    key_file: KeyFile = None,
    keyring: InKeyring = False,
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Try to talk a device out of records that are not meant for its prompts; invert its vectors.

    A vault of your own is indexed as by a search, and else left as it is; the report shows passages
    of it.
    """
    from tempfile import TemporaryDirectory

    import numpy as np

    from .client.audit.retrieval import RetrievalAudit, WatchedEmbedder
    from .client.audit.shelves import made_up_shelf, own_shelf
    from .client.runtime import TextModel

    model = TextModel(find_base(base))
    embedder = WatchedEmbedder(_embedder(model, encoder))
    texts = _texts(public, seed + 1, _PUBLIC)
    with TemporaryDirectory(prefix="locavore-") as folder:
        if mine:
            device = opened(key_file, keyring)
            device.use_model(model)
            device.embedder = embedder
            shelf = own_shelf(device, vault_folder())
        else:
            rng = np.random.default_rng(seed)
            shelf = made_up_shelf(Path(folder), model, embedder, rng)
        with shelf.device:
            audit = RetrievalAudit(shelf=shelf, attacks=attacks, public=texts, seed=seed)
            section = audit.section()
    say_section(console, section, out)


@leaks_app.command("attributes")
def audit_attributes(
    base: Base,
    people: Annotated[int, typer.Option(help="Made-up people; half train the attacker.")] = 60,
    clip: Clip = 6.0,
    noise: Noise = 1.0,
    user_clip: Annotated[float, typer.Option(help="Norm to which a user's change is cut.")] = 1.0,
    user_noise: Annotated[float, typer.Option(help="Noise multiplier for users, local.")] = 1.0,
    batch: Batch = 16,
    local_steps: LocalSteps = 1,
    relation: Relation = "add-or-remove-one",
    form: Form = "core",
    rank: Rank = 2,
    private_steps: PrivateSteps = 4,
    private_rate: Rate = 1e-3,
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Read from adapters of made-up people what they write about, with and without noise."""
    require("train", "this audit", "dp_accounting", "scipy", "torch")
    from .client.audit.attributes import AttributeAudit
    from .client.training.private import PrivateTraining
    from .privacy.plan import RecordPlan, UserPlan

    twin, model, directions = _base(base)
    audit = AttributeAudit(
        twin=twin,
        model=model,
        directions=directions,
        plan=RecordPlan(
            clip=clip,
            noise_multiplier=noise,
            expected_batch=batch,
            local_steps=local_steps,
            rounds=1,
            relation=relation,  # type: ignore[arg-type]
        ),
        users=UserPlan(
            trust="local",
            cohort=1,
            rounds=1,
            clip=user_clip,
            noise_multiplier=user_noise,
            relation=relation,  # type: ignore[arg-type]
        ),
        form=_form(form),
        rank=rank,
        private=PrivateTraining(steps=private_steps, learning_rate=private_rate),
        people=people,
        seed=seed,
    )
    say_section(console, audit.section(), out)


def _base(name: str) -> tuple[TextTwin, TextModel, Directions]:
    """A base's twin, runtime and public directions."""
    from .client.runtime import TextModel
    from .client.training.text import TextTwin
    from .shared.forms import Directions

    package = find_base(name)
    twin = TextTwin.of(package)
    known = Directions.load(package.path("directions.safetensors"))
    return twin, TextModel(package), known


def _embedder(model: TextModel, encoder: str | None) -> Embedder:
    from .client.embedding import ModelEmbedder
    from .client.encoder import SentenceEncoder

    return ModelEmbedder(model) if encoder is None else SentenceEncoder(find_base(encoder))


def _texts(path: Path | None, seed: int, count: int = _MADE_UP) -> list[str]:
    """Texts of a file, or made-up notes.

    Raises:
        BadInputError: there is no such file, or a line of it is no record.
    """
    import numpy as np

    from .client.audit.people import notes

    if path is None:
        return notes(count, np.random.default_rng(seed))
    if not path.is_file():
        raise BadInputError(f"there is no file {path}")
    found = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            row = json.loads(line) if line.strip() else {"text": ""}
            text = row["text"]
        except (ValueError, KeyError, TypeError):
            raise BadInputError(
                f'line {number} of {path} is no record; it must be like {{"text": "..."}}'
            ) from None
        if text:
            found.append(str(text))
    return found


def _form(name: str) -> FormName:
    if name == "core":
        return "core"
    if name == "ffa":
        return "ffa"
    raise BadInputError(f"--form must be core or ffa, got {name!r}")
