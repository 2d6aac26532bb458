"""A record's loss is its own, whatever it is batched with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="needs the extra 'train'")

import torch
from torch.nn.functional import cross_entropy

from locavore.client.training.adapted import AdaptedTwin
from locavore.client.training.loss import _CHUNK, _HeadLoss, per_record_loss, token_batch
from locavore.shared.errors import BadInputError

RECORDS = [[70, 71, 300, 12], [90], [17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27], [301, 5]]


@pytest.mark.parametrize("start", [(), (0,), (0, 7)])
def test_it_equals_the_models_own_loss_one_by_one(
    start: tuple[int, ...], twin: AdaptedTwin
) -> None:
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


def test_a_record_in_another_batch_has_the_same_loss(twin: AdaptedTwin) -> None:
    together = per_record_loss(twin.model, token_batch(RECORDS, (0,)))
    for i, record in enumerate(RECORDS):
        alone = per_record_loss(twin.model, token_batch([record], (0,)))
        assert alone[0].item() == pytest.approx(together[i].item(), abs=1e-5)


def test_padding_is_right_and_targets_leave_out_the_start() -> None:
    batch = token_batch([[7], [8, 9]], (1, 2))
    assert batch["ids"].tolist() == [[1, 2, 7, 0], [1, 2, 8, 9]]
    assert batch["mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch["target"].int().tolist() == [[0, 0, 1, 0], [0, 0, 1, 1]]


@pytest.mark.parametrize("cap", [0.0, 3.0])
@pytest.mark.parametrize("tokens", [6, _CHUNK + 3])
@given(seed=st.integers(0, 2**31))
def test_the_hand_written_gradient_equals_autograd(cap: float, tokens: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(2, tokens, 8, generator=generator, requires_grad=True)
    head = torch.randn(11, 8, generator=generator)
    ids = torch.randint(0, 11, (2, tokens), generator=generator)
    target = torch.rand(2, tokens, generator=generator) < 0.7
    weights = torch.rand(2, tokens, generator=generator)
    losses = _HeadLoss.apply(hidden, head, ids, target, cap)  # type: ignore[no-untyped-call]
    (found,) = torch.autograd.grad((losses * weights).sum(), hidden)
    logits = hidden @ head.T
    if cap:
        logits = torch.tanh(logits / cap) * cap
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
    ],
)
def test_a_head_that_does_more_is_refused_by_name(family: str, extra: dict[str, float]) -> None:
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
    model = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(BadInputError, match=type(model).__name__):
        per_record_loss(model, token_batch([[1, 2, 3]]))
