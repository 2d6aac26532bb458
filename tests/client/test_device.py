"""The device's façade."""

from __future__ import annotations

import numpy as np
import pytest

from locavore.client.device import Device
from locavore.client.embedding import ModelEmbedder
from locavore.client.runtime import Generation, TextModel, Told
from locavore.shared.adapters import Adapter
from locavore.shared.contexts import Consent, Instruction, UserDocument
from locavore.shared.errors import BadInputError, ContextLengthError
from locavore.shared.forms import Directions, SharedForm

SHORT = Generation(max_tokens=8)


@pytest.fixture
def device(model: TextModel) -> Device:
    device = Device(model)
    for name, text in (("a", "My goat is called Berta."), ("b", "The canoe leaks at the bow.")):
        device.remember(UserDocument(body=text, id=name, consent=Consent(retrieve=True)))
    return device


def text(device: Device) -> TextModel:
    assert isinstance(device.model, TextModel)
    return device.model


@pytest.fixture
def adapter(model: TextModel, directions: Directions) -> Adapter:
    form = SharedForm("core", model.base_id, directions)
    theta = np.random.default_rng(0).standard_normal(form.dim).astype(np.float32)
    return form.to_adapter(theta)


@pytest.mark.parametrize("meaning", [False, True])
def test_what_is_forgotten_is_not_retrieved(meaning: bool, device: Device) -> None:
    if meaning:
        device.embedder = ModelEmbedder(text(device))
    assert device.recall("goat Berta")[0].record.id == "a"
    device.forget("a")
    assert "a" not in [hit.record.id for hit in device.recall("goat Berta")]
    with pytest.raises(BadInputError, match="no record 'a'"):
        device.forget("a")


def test_what_is_remembered_is_found_at_once(device: Device) -> None:
    assert device.recall("kettle") == []
    record = UserDocument(body="The kettle sings.", consent=Consent(retrieve=True))
    assert device.remember(record) == record.id
    assert device.recall("kettle")[0].record == record


def test_training_texts_need_consent_and_text(model: TextModel) -> None:
    device = Device(model)
    for text, consent in (
        ("both", Consent(train=True, federate=True)),
        ("private", Consent(train=True)),
        ("found", Consent(retrieve=True)),
        ("  ", Consent.full()),
    ):
        device.remember(UserDocument(body=text, consent=consent))
    assert sorted(r.text for r in device.training_records("train")) == ["both", "private"]
    assert [r.text for r in device.training_records("federate")] == ["both"]


def test_a_generation_tells_what_went_into_it(device: Device, adapter: Adapter) -> None:
    device.shared = adapter
    content = device.generate(Instruction(text="Tell me of my goat"), SHORT)
    assert content.trace.record_ids == ("a",)
    assert content.trace.adapters == ("shared",)
    full = "My goat is called Berta.\n\nTell me of my goat"
    assert content.trace.prompt_tokens == len(text(device).encode(full))
    device.model.attach(adapter)
    (expected,) = text(device).generate([full], SHORT)
    assert (content.output, content.reason) == (expected.text, expected.reason)


def test_without_retrieval_and_adapters_it_is_the_bare_base(
    device: Device, adapter: Adapter
) -> None:
    device.private = adapter
    content = device.generate(Instruction(text="The goat"), SHORT, k=0, adapters=())
    device.model.attach()
    assert content.output == text(device).generate(["The goat"], SHORT)[0].text
    assert content.trace.hits == ()
    assert content.trace.adapters == ()


def test_both_adapters_are_summed(device: Device, adapter: Adapter) -> None:
    device.shared = device.private = adapter
    assert device.available_adapters() == ("shared", "private")
    device.use_adapters("shared", "private")
    ids = text(device).encode("The goat")
    both = text(device).logits(ids)
    doubled = Adapter(adapter.base_id, {s: (a, b + b) for s, (a, b) in adapter.factors.items()})
    device.model.attach(doubled)
    np.testing.assert_allclose(both, text(device).logits(ids), atol=1e-4)


def test_chat_mode_uses_the_template(device: Device) -> None:
    told = device.request(Instruction(text="Where is my goat?", mode="chat"))
    assert isinstance(told, Told)
    prompt = told.prompt
    assert prompt.full.startswith("<|start|>user\nHere is how I write:\n\nMy goat")
    assert prompt.full.endswith("Where is my goat?<|end|>\n<|start|>assistant\n")


@pytest.mark.parametrize("name", ["Shared", "", "third"])
def test_an_unknown_adapter_name_is_refused(name: str, device: Device) -> None:
    with pytest.raises(BadInputError, match=f"adapters are 'shared' and 'private', got '{name}'"):
        device.use_adapters(name)


@pytest.mark.parametrize("name", ["shared", "private"])
def test_an_adapter_that_is_not_there_is_refused(name: str, device: Device) -> None:
    with pytest.raises(BadInputError, match=f"no {name} adapter for tiny-.* yet"):
        device.generate(Instruction(text="x"), SHORT, adapters=[name])


def test_prompt_and_answer_share_the_context(device: Device) -> None:
    how = Generation(max_tokens=230)
    content = device.generate(Instruction(text="goat"), how)
    assert content.trace.prompt_tokens + 230 + 1 <= 256
    with pytest.raises(ContextLengthError, match="the budget is"):
        device.generate(Instruction(text="goat " * 40), how)
    with pytest.raises(ContextLengthError, match="the budget is 0"):
        device.request(Instruction(text="goat"), Generation(max_tokens=255))
    with pytest.raises(ContextLengthError):
        device.generate(Instruction(text="goat"), Generation(max_tokens=255))


def test_a_stream_is_the_generation_in_pieces(device: Device, adapter: Adapter) -> None:
    device.shared = adapter
    instruction = Instruction(text="Tell me of my goat")
    told = device.request(instruction, SHORT)
    assert isinstance(told, Told)
    device.use_adapters("shared")
    assert [hit.record.id for hit in told.used] == ["a"]
    assert "".join(told.stream()) == device.generate(instruction, SHORT).output
