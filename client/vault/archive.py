"""A person's data to take along: one zip of plain files, readable without locavore."""

from __future__ import annotations

import json
import mimetypes
import os
import zipfile
from pathlib import Path
from urllib.parse import quote

from ...shared.errors import BadInputError
from .codec import encode, media_of, parse
from .vault import Vault

__all__ = ["export_vault"]

_README = """What a device kept of you, in plain files.

records.jsonl      one record a line: kind, id, time, source, what it may be used for, content
media/             pictures, sounds and scans, named by record
adapters/          what was trained on your records (safetensors), a folder for each base
ledger.jsonl       what training shared with others has cost in privacy
certificates.json  what was forgotten, signed
"""


def export_vault(vault: Vault, path: Path) -> int:
    """Write everything in a vault, decrypted, into a new zip file; returns how many records.

    Raises:
        BadInputError: there is a file of that name.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise BadInputError(f"{path} exists already; choose another name") from None
    lines: list[str] = []
    with (
        os.fdopen(handle, "wb") as stream,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        archive.writestr("README.txt", _README)
        for record in vault:
            row = parse(encode(record))
            names = []
            for number, medium in enumerate(media_of(record)):
                suffix = mimetypes.guess_extension(row.get("media_type", "")) or ".bin"
                names.append(f"media/{len(lines):06}-{number}{suffix}")
                archive.writestr(names[-1], medium)
            lines.append(json.dumps({**row, "media": names}, ensure_ascii=False))
        text = "".join(f"{line}\n" for line in lines)
        archive.writestr("records.jsonl", text.encode("utf-8", "backslashreplace"))
        for lineage in vault.lineages:
            for name, adapter in (("private", lineage.private), ("shared", lineage.shared)):
                if adapter is not None:
                    place = f"adapters/{quote(lineage.base_id, safe='')}/{name}.safetensors"
                    archive.writestr(place, adapter.to_bytes())
        archive.writestr("ledger.jsonl", b"".join(vault.journal.lines()))
        said = ",\n".join(certificate.to_json() for certificate in vault.certificates)
        archive.writestr("certificates.json", f"[{said}]\n")
    return len(lines)
