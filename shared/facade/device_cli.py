"""``locavore device``: a person's vault from the shell."""

from __future__ import annotations

import os
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console
from rich.table import Column, Table

from .home import find_base, vault_folder
from .shared.errors import BadInputError

if TYPE_CHECKING:
    from .client import Certificate, Device
    from .shared.contexts import Consent

__all__ = ["InKeyring", "KeyFile", "device_app", "opened", "say"]

_VARIABLE = "LOCAVORE_PASSPHRASE"
_SHOWN = 60  # characters of a record in a list

device_app = typer.Typer(
    no_args_is_help=True,
    help="The encrypted vault of this device: remember, recall, forget. The passphrase is asked "
    f"for, or taken from ${_VARIABLE}; the vault lies in $LOCAVORE_VAULT or a folder of yours.",
)
console = Console(width=None if sys.stdout.isatty() else 100)

KeyFile = Annotated[
    Optional[Path],  # noqa: UP045  # typer reads this form
    typer.Option(help="File of 32 random bytes that unlocks instead of a passphrase."),
]
InKeyring = Annotated[bool, typer.Option("--keyring", help="Unlock by the system's keyring.")]
Train = Annotated[bool, typer.Option(help="May train the private adapter, which never leaves.")]
Federate = Annotated[bool, typer.Option(help="May train the shared adapter too.")]
Days = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(help="Forget it after so many days."),
]


def opened(
    key_file: Path | None = None, keyring: bool = False, *, accept_rollback: bool = False
) -> Device:
    """This user's device, unlocked."""
    from .client import Device

    folder = vault_folder()
    if not folder.exists():
        raise BadInputError(f"there is no vault in {folder}; make one with 'locavore device init'")
    return Device.open(folder, **_unlocking(key_file, keyring), accept_rollback=accept_rollback)  # type: ignore[arg-type]


@device_app.command("init")
def init(key_file: KeyFile = None, keyring: InKeyring = False) -> None:
    """Make an empty vault."""
    from .client import Device

    folder = vault_folder()
    if key_file is not None and not key_file.exists():
        handle = os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(os.urandom(32))
    Device.create(folder, **_unlocking(key_file, keyring, new=True)).close()  # type: ignore[arg-type]
    say(f"made an empty vault in {folder}; without its passphrase or key nobody can open it")


@device_app.command("remember")
def remember(
    text: Annotated[str, typer.Argument(help="What to remember; '-' reads standard input.")],
    title: str = "",
    source: Annotated[str, typer.Option(help="Where it comes from.")] = "shell",
    train: Train = False,
    federate: Federate = False,
    days: Days = None,
    key_file: KeyFile = None,
    keyring: InKeyring = False,
) -> None:
    """Keep a text; it may be retrieved."""
    from .shared.contexts import Provenance, UserDocument

    record = UserDocument(
        body=sys.stdin.read() if text == "-" else text,
        title=title,
        consent=_consent(train, federate),
        provenance=Provenance(source=source),
        expires=None if days is None else datetime.now(UTC) + timedelta(days=days),
    )
    with opened(key_file, keyring) as device:
        say(f"remembered {device.remember(record)}")


@device_app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="Folder, mbox, eml, ics, vcf, json, html, ...")],
    me: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Your mail address; may be repeated. Only your own mail is taken."),
    ] = None,
    train: Train = False,
    federate: Federate = False,
    key_file: KeyFile = None,
    keyring: InKeyring = False,
) -> None:
    """Read what you have; what is there already is passed over."""
    from .client.importers import Imported, import_records, read_source
    from .client.importers.reading import Reading

    skipped: Counter[str] = Counter()
    how = Reading(
        consent=_consent(train, federate),
        me=frozenset(address.lower() for address in me or []),
        skipped=lambda _what, why: skipped.update([why.split(":")[0]]),
    )
    with opened(key_file, keyring) as device, console.status("importing") as spinner:

        def show(done: Imported) -> None:
            spinner.update(f"importing: {done.added} new, {done.known} known")

        done = import_records(device, read_source(path, how), show)
    say(f"{done.added} new, {done.known} known already, {skipped.total()} left out")
    for why, count in skipped.most_common():
        say(f"  left out, {why}: {count}")


@device_app.command("list")
def list_(
    kind: Annotated[str, typer.Option(help="Only document, behavior, ...")] = "",
    source: Annotated[str, typer.Option(help="Only of this source.")] = "",
    key_file: KeyFile = None,
    keyring: InKeyring = False,
) -> None:
    """List the records, oldest first."""
    from .client.vault.codec import kind_of

    table = Table(Column("id", no_wrap=True), "time", "kind", "source", "uses", "text")
    with opened(key_file, keyring) as device:
        for record in device.store:
            if kind not in ("", kind_of(record)) or source not in ("", record.provenance.source):
                continue
            table.add_row(
                record.id,
                f"{record.time:%Y-%m-%d}",
                kind_of(record),
                record.provenance.source,
                _uses(record.consent),
                " ".join(record.text.split())[:_SHOWN],
            )
    console.print(table)


@device_app.command("show")
def show(record_id: str, key_file: KeyFile = None, keyring: InKeyring = False) -> None:
    """Show a record, and what it was used for."""
    from .client.vault.codec import kind_of, media_of

    with opened(key_file, keyring) as device:
        record = device.store.get(record_id)
        uses = device.store.uses(record_id)
        trained = [
            (place, lineage.base_id)
            for lineage in device.store.lineages
            for place, link in enumerate(lineage.slices, 1)
            if record_id in link.records
        ]
    say(f"{kind_of(record)} of {record.time:%Y-%m-%d %H:%M}, may be used to: ", end="")
    say(_uses(record.consent) or "nothing")
    say(f"from {record.provenance.source} {record.provenance.uri}")
    if record.expires is not None:
        say(f"is forgotten on {record.expires:%Y-%m-%d}")
    for medium in media_of(record):
        say(f"medium of {len(medium)} bytes")
    for place, base_id in trained:
        say(f"trained slice {place} of the private adapter of {base_id}")
    for use in uses:
        rounds = ", ".join(map(str, use.rounds))
        say(
            f"could be used in rounds {rounds} of {use.purpose!r}: ε = {use.epsilon:.3g} a "
            f"{use.unit} at δ = {use.delta:g}"
        )
    say(f"\n{record.text}")


@device_app.command("recall")
def recall(
    query: str,
    k: Annotated[int, typer.Option("-k", help="Passages at most.")] = 5,
    source: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Only of this source; may be repeated."),
    ] = None,
    encoder: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="A built text encoder, by name or path: find by meaning too."),
    ] = None,
    key_file: KeyFile = None,
    keyring: InKeyring = False,
) -> None:
    """Find passages that fit a request."""
    from .client import SentenceEncoder, Where

    with opened(key_file, keyring) as device:
        if encoder is not None:
            device.embedder = SentenceEncoder(find_base(encoder))
        hits = device.recall(query, k, Where(sources=tuple(source or ())))
    for hit in hits:
        why = ", ".join(f"{name} #{rank}" for name, rank in hit.why.items())
        came = f"{hit.record.provenance.source} {hit.record.provenance.uri}".strip()
        say(f"{hit.record.id}  {hit.record.time:%Y-%m-%d}  {came}  ({why})")
        say(f"  {' '.join(hit.text.split())}\n")
    if not hits:
        say("nothing that may be retrieved has a word of it")


@device_app.command("forget")
def forget(
    record_id: Annotated[Optional[str], typer.Argument(help="Id of a record.")] = None,  # noqa: UP045
    source: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Forget everything of this source."),
    ] = None,
    everything: Annotated[bool, typer.Option(help="Forget all there is.")] = False,
    certificate: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Write the signed certificate to this file."),
    ] = None,
    key_file: KeyFile = None,
    keyring: InKeyring = False,
) -> None:
    """Destroy records and what was made of them; prints the certificate."""
    if everything and (record_id or source):
        raise BadInputError("--everything stands alone")
    with opened(key_file, keyring) as device:
        said = device.forget_everything() if everything else device.forget(record_id, source=source)
    if certificate is not None:
        certificate.write_text(said.to_json() + "\n", "utf-8")
    _print(said)


@device_app.command("export")
def export(path: Path, key_file: KeyFile = None, keyring: InKeyring = False) -> None:
    """Write everything, decrypted, into a zip of plain files."""
    with opened(key_file, keyring) as device:
        count = device.export(path)
    say(f"{count} records in {path}, readable by everybody who has the file")


@device_app.command("rekey")
def rekey(
    new_key_file: KeyFile = None,
    new_keyring: Annotated[bool, typer.Option("--new-keyring")] = False,
    key_file: KeyFile = None,
    keyring: InKeyring = False,
) -> None:
    """Change the passphrase or key; a new passphrase may be in $LOCAVORE_NEW_PASSPHRASE."""
    from .client.device import unlocking
    from .client.vault.file import SealedFile

    with opened(key_file, keyring) as device:
        assert isinstance(device.store.entries, SealedFile)
        given = _unlocking(new_key_file, new_keyring, new=True, variable="LOCAVORE_NEW_PASSPHRASE")
        device.store.entries.rekey(unlocking(**given))  # type: ignore[arg-type]
    say("the vault has a new key; the old one opens nothing any more")


@device_app.command("check")
def check(
    accept_rollback: Annotated[
        bool, typer.Option(help="An older copy was put back on purpose: take it as it is.")
    ] = False,
    key_file: KeyFile = None,
    keyring: InKeyring = False,
) -> None:
    """Read and authenticate everything in the vault."""
    from .client.vault.file import SealedFile

    with opened(key_file, keyring, accept_rollback=accept_rollback) as device:
        assert isinstance(device.store.entries, SealedFile)
        count = device.store.entries.check()
        records = sum(1 for _ in device.store)  # with their media
        for said in device.store.certificates:
            said.verify()
    say(f"ok: {records} records, {count} entries in all, everything is what was written")


@device_app.command("stats")
def stats(key_file: KeyFile = None, keyring: InKeyring = False) -> None:
    """Count what is there."""
    from .client.vault.codec import kind_of
    from .client.vault.file import SealedFile

    with opened(key_file, keyring) as device:
        records = list(device.store)
        store = device.store
        assert isinstance(store.entries, SealedFile)
        size = store.entries.nbytes
        chains = [(one.base_id, len(one.slices), len(one.due)) for one in store.lineages]
        forgotten = sum(len(said.records) for said in store.certificates)
        charges = len(store.journal.lines())
    table = Table("kind", "source", "records", "retrieve", "train", "federate")
    groups = Counter((kind_of(r), r.provenance.source) for r in records)
    for (kind, source), count in sorted(groups.items()):
        own = [r for r in records if (kind_of(r), r.provenance.source) == (kind, source)]
        uses = (sum(getattr(r.consent, use) for r in own) for use in _USES)
        table.add_row(kind, source, str(count), *map(str, uses))
    console.print(table)
    say(
        f"{len(records)} records, {size / 1e6:.1f} MB in {vault_folder()}; {charges} charges in "
        f"the ledger, {forgotten} records forgotten so far"
    )
    for base_id, slices, due in chains:
        say(f"base {base_id}: {slices} slices of a private adapter, {due} to be trained again")


_USES = ("retrieve", "train", "federate")


def _uses(consent: Consent) -> str:
    return " ".join(use for use in _USES if getattr(consent, use))


def _consent(train: bool, federate: bool) -> Consent:
    from .shared.contexts import Consent

    return Consent(retrieve=True, train=train or federate, federate=federate)


def _print(said: Certificate) -> None:
    for sentence in said.sentences():
        say(sentence)
    say(f"signed by {said.key[:16]}…")


def say(text: str, end: str = "\n") -> None:
    """Print a sentence."""
    console.print(text, markup=False, highlight=False, soft_wrap=True, end=end)


def _unlocking(
    key_file: Path | None, keyring: bool, *, new: bool = False, variable: str = _VARIABLE
) -> dict[str, str | bytes]:
    if key_file is not None:
        if not key_file.is_file():
            raise BadInputError(f"there is no key file {key_file}")
        return {"key": key_file.read_bytes()}
    if keyring:
        return {"keyring": os.environ.get("USER") or "locavore"}
    if variable in os.environ:
        return {"passphrase": os.environ[variable]}
    asked = "New passphrase" if new else "Passphrase"
    return {"passphrase": typer.prompt(asked, hide_input=True, confirmation_prompt=new, err=True)}
