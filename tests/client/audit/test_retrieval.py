"""A device keeps its promise of retrieval; one that breaks it in any one place is found out."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from locavore.client.audit.overlap import longest_run, quotable, share_in, unheard
from locavore.client.audit.people import notes
from locavore.client.audit.retrieval import RetrievalAudit, WatchedEmbedder
from locavore.client.audit.shelves import Shelf, made_up_shelf, own_shelf
from locavore.client.device import Content, Device
from locavore.client.embedding import ModelEmbedder
from locavore.client.retrieval import Retriever, Segment
from locavore.client.runtime import Generation, TextModel
from locavore.client.user_model import UserModel
from locavore.client.vault.codec import kind_of
from locavore.client.vault.entries import Sort
from locavore.shared.contexts import Consent, UserDocument
from locavore.shared.errors import BadInputError

SHORT = Generation(max_tokens=8)
PUBLIC = notes(60, np.random.default_rng(9))


def shelf(model: TextModel, folder: Path, device: type[Device] = Device) -> Shelf:
    embedder = WatchedEmbedder(ModelEmbedder(model))
    return made_up_shelf(folder, model, embedder, np.random.default_rng(0), each=2, device=device)


def audit(made: Shelf, attacks: int = 12) -> RetrievalAudit:
    return RetrievalAudit(shelf=made, attacks=attacks, public=PUBLIC, how=SHORT)


def refuted(asked: RetrievalAudit) -> list[str]:
    return [finding.claim for finding in asked.findings() if not finding.holds]


def test_a_device_keeps_its_promise(model: TextModel, tmp_path: Path) -> None:
    made = shelf(model, tmp_path)
    section = audit(made, attacks=24).section()
    assert [str(finding) for finding in section.findings if not finding.holds] == []
    assert len(section.findings) == 7
    rows = {row[0]: row[1:] for row in section.figures[0].data["rows"]}
    assert rows["meant"][1] > 0.3  # what is meant for prompts stands in them
    assert set(rows) == {"meant", *made.withheld}
    for kind in made.withheld:
        assert rows[kind][1:] == [0, 0]


class SearchesEverything(Device):
    """Has forgotten to ask for consent before it searches."""

    def _searched(self) -> tuple[Retriever, UserModel]:
        records = [(kind_of(record), record) for record in self.store]
        segment = Segment.build(records, self.embedder)
        return Retriever([segment], self.store.get, self.embedder), UserModel.of(self.store)


class TellsEverything(Device):
    """Has forgotten to ask for consent before it sums a person up."""

    def _searched(self) -> tuple[Retriever, UserModel]:
        allowed = [replace(record, consent=Consent(retrieve=True)) for record in self.store]
        return super()._searched()[0], UserModel.of(allowed)


class RemembersAnswers(Device):
    """Says what a record, which is gone since, had taught it."""

    memory = ""

    def generate(self, *args: Any, **settings: Any) -> Content:
        return replace(super().generate(*args, **settings), output=self.memory)


@pytest.mark.parametrize(
    ("device", "parts"),
    [
        (SearchesEverything, {"hits and traces", "no prompt holds", "that never had consent"}),
        (TellsEverything, {"sentences about the person"}),
    ],
)
def test_a_device_that_does_not_ask_for_consent_is_refuted(
    device: type[Device], parts: set[str], model: TextModel, tmp_path: Path
) -> None:
    made = shelf(model, tmp_path)
    made = replace(made, device=device(model, made.device.store, made.device.embedder))
    broken = refuted(audit(made, attacks=30))
    assert len(broken) == len(parts)
    assert all(any(part in claim for claim in broken) for part in parts)


def test_an_answer_that_holds_what_is_gone_is_refuted(
    model: TextModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = shelf(model, tmp_path, RemembersAnswers)
    monkeypatch.setattr(RemembersAnswers, "memory", made.withheld["forgotten"][0])
    (claim,) = refuted(audit(made, attacks=4))
    assert claim.startswith("no answer holds 6 words")


def test_an_index_that_keeps_what_is_gone_is_refuted(
    model: TextModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = Segment.without

    def keeps(segment: Segment, gone: Collection[str]) -> Segment:
        left = tuple(facets for facets in segment.records if facets.id in gone)
        made = clean(segment, gone)
        return replace(made, records=(*made.records, *left))

    monkeypatch.setattr(Segment, "without", keeps)
    (claim,) = refuted(audit(shelf(model, tmp_path), attacks=2))
    assert claim.startswith("the index holds")


@pytest.mark.parametrize("sort", [Sort.VECTORS, Sort.INDEX, Sort.RECORD])
def test_a_plain_copy_beside_the_vault_is_refuted(
    sort: Sort, model: TextModel, tmp_path: Path
) -> None:
    made = shelf(model, tmp_path)
    raw = next(iter(made.device.store.entries.all(sort)))
    (tmp_path / "mine" / "cache.bin").write_bytes(raw)
    (claim,) = refuted(audit(made, attacks=2))
    assert claim.startswith("the vault's files hold no text")


def test_a_persons_own_vault_is_audited_as_it_is(model: TextModel) -> None:
    device = Device(model)
    found, kept = Consent(retrieve=True), Consent()
    for text, consent in (("My goat is called Berta.", found), ("The canoe leaks.", kept)):
        device.remember(UserDocument(body=text, consent=consent))
    section = audit(own_shelf(device)).section()
    assert all(finding.holds for finding in section.findings)
    said = " ".join(section.untested)
    assert "in memory" in said
    assert "no vectors to invert" in said
    with pytest.raises(BadInputError, match="no records"):
        audit(own_shelf(Device(model)))


def test_words_that_were_typed_are_no_leak() -> None:
    record = "Dear Ada, the key is under the third pot by the back door."
    typed = quotable(["Dear Ada, the key is"])
    assert unheard(record, typed) == [["under", "the", "third", "pot", "by", "the", "back", "door"]]
    assert longest_run("Dear Ada, the key is under a stone", record, typed) == 1
    assert longest_run("It lies under the third pot!", record, typed) == 4
    assert share_in("under the THIRD pot by the door", record, typed, least=4) == 6 / 8
    assert share_in("", record) == 0
