"""A record's loss is its own, whatever it is batched with."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="needs the extra 'train'")

import torch
from torch.nn.functional import cross_entropy

from locavore.client.training.objectives.language import (
    _CHUNK,
    _Head,
    _HeadLoss,
    per_record_loss,
    sequence_loss,
    token_batch,
)
from locavore.client.training.text import TextTwin
from locavore.shared.errors import BadInputError

RECORDS = [[70, 71, 300, 12], [90], [17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27], [301, 5]]


@pytest.mark.parametrize("start", [(), (0,), (0, 7)])
def test_it_equals_the_models_own_loss_one_by_one(start: tuple[int, ...], twin: TextTwin) -> None:
    found = per_record_loss(twin.model, token_batch(RECORDS, start))
    for loss, record in zip(found, RECORDS, strict=True):
        row = torch.tensor([[*start, *record]])
        labels = row.clone()
        labels[0, : len(start)] = -100
        if len(start) + len(record) < 2:
            assert loss == 0
        else:
            expected = twin.model(input_ids=row, labels=labels).loss
            assert loss.item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_record_in_another_batch_has_the_same_loss(twin: TextTwin) -> None:
    together = per_record_loss(twin.model, token_batch(RECORDS, (0,)))
    for i, record in enumerate(RECORDS):
        alone = per_record_loss(twin.model, token_batch([record], (0,)))
        assert alone[0].item() == pytest.approx(together[i].item(), abs=1e-5)


def test_padding_is_right_and_targets_leave_out_the_start() -> None:
    batch = token_batch([[7], [8, 9]], (1, 2))
    assert batch["ids"].tolist() == [[1, 2, 7, 0], [1, 2, 8, 9]]
    assert batch["mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch["target"].int().tolist() == [[0, 0, 1, 0], [0, 0, 1, 1]]


def test_only_the_completion_is_learned(twin: TextTwin) -> None:
    """Against the model's own loss with the prompt's labels left out."""
    given = [2, 0, 4, 1]
    batch = token_batch(RECORDS, (0,), given)
    assert batch["target"][0].int().tolist()[:5] == [0, 0, 0, 1, 1]
    found = per_record_loss(twin.model, batch)
    for loss, record, prompt in zip(found, RECORDS, given, strict=True):
        row = torch.tensor([[0, *record]])
        labels = row.clone()
        labels[0, : 1 + prompt] = -100
        expected = twin.model(input_ids=row, labels=labels).loss
        assert loss.item() == pytest.approx(expected.item(), abs=1e-5)


def test_an_encoder_decoder_equals_its_own_loss_one_by_one() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=64,
            d_model=16,
            d_kv=4,
            d_ff=24,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
        )
    ).eval()
    ids, answer = torch.randint(3, 64, (3, 7)), torch.randint(3, 64, (3, 5))
    mask = (torch.arange(7) < torch.tensor([[7], [4], [5]])).long()
    target = torch.arange(5) < torch.tensor([[5], [2], [3]])
    found = sequence_loss(model, {"ids": ids, "mask": mask, "answer": answer, "target": target})
    for i in range(3):
        read, wrote = int(mask[i].sum()), int(target[i].sum())
        expected = model(input_ids=ids[i : i + 1, :read], labels=answer[i : i + 1, :wrote]).loss
        assert found[i].item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize(
    "head",
    [
        {},
        {"cap": 3.0},
        {"scale": 0.25},
        {"scale": 2.0, "cap": 3.0, "bias": torch.linspace(-1, 1, 11)},
    ],
)
@pytest.mark.parametrize("tokens", [6, _CHUNK + 3])
@given(seed=st.integers(0, 2**31))
def test_the_hand_written_gradient_equals_autograd(
    head: dict[str, Any], tokens: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(2, tokens, 8, generator=generator, requires_grad=True)
    whole = _Head(torch.randn(11, 8, generator=generator), **head)
    ids = torch.randint(0, 11, (2, tokens), generator=generator)
    target = torch.rand(2, tokens, generator=generator) < 0.7
    weights = torch.rand(2, tokens, generator=generator)
    losses = _HeadLoss.apply(hidden, whole, ids, target)  # type: ignore[no-untyped-call]
    (found,) = torch.autograd.grad((losses * weights).sum(), hidden)
    logits = whole.logits(hidden)
    expected_losses = cross_entropy(logits.transpose(1, 2), ids, reduction="none") * target
    (expected,) = torch.autograd.grad((expected_losses * weights).sum(), hidden)
    torch.testing.assert_close(losses, expected_losses, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "extra"),
    [
        ("GraniteConfig", {"logits_scaling": 4.0}),
        ("CohereConfig", {"logit_scale": 0.0625}),
        ("PhiConfig", {}),
        ("Gemma2Config", {"final_logit_softcapping": 2.0, "head_dim": 16}),
    ],
)
def test_a_head_that_does_more_is_followed(family: str, extra: dict[str, float]) -> None:
    import transformers

    config = getattr(transformers, family)(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=0,
        **extra,
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for value in model.parameters():  # a bias of zeros would show nothing
        if not value.any():
            torch.nn.init.normal_(value)
    records = [[9, 2, 3, 17, 20], [4, 5, 6]]
    found = per_record_loss(model, token_batch(records))
    for loss, record in zip(found, records, strict=True):
        row = torch.tensor([record])
        assert loss.item() == pytest.approx(model(input_ids=row, labels=row).loss.item(), abs=1e-5)


def test_a_record_longer_than_the_context_is_refused(twin: TextTwin) -> None:
    longest = twin.model.config.max_position_embeddings
    with pytest.raises(BadInputError, match=f"of {longest + 1} tokens is longer than the context"):
        per_record_loss(twin.model, token_batch([[7] * (longest + 1)]))
