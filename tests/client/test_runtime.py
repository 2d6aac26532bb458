"""The runtime on the tiny base: batches, stops, streams, scores."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from locavore.client.runtime import Generation, TextModel, _Row
from locavore.client.sampling import Sampling, choose
from locavore.shared.errors import BadInputError, ContextLengthError, IntegrityError
from locavore.shared.packages import Package, open_package, sign_package

if TYPE_CHECKING:
    from locavore.client.training.text import TextTwin
    from locavore.export.quantize import Precision

PROMPTS = ["The nurse walked", "R", "Dear Ada, thank you for the", "", "zebra 東京 ☂"]
WARM = Sampling(temperature=1.5, top_p=0.95, seed=7)
few_examples = settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("precision", ["float32", "int8", "int4"])
def test_a_batch_gives_what_one_by_one_gives(
    precision: Precision, packages: Callable[[Precision], Package]
) -> None:
    model = TextModel(packages(precision), threads=1)
    how = Generation(max_tokens=20)
    together = model.generate(PROMPTS, how)
    assert together == [model.generate([prompt], how)[0] for prompt in PROMPTS]
    assert together == model.generate(PROMPTS[::-1], how)[::-1]


def test_it_continues_what_it_was_trained_on(
    model: TextModel, public_texts: tuple[str, ...]
) -> None:
    how = Generation(max_tokens=60, sampling=Sampling(repetition_penalty=1))
    (done,) = model.generate(["The nurse walked to the harbour in the"], how)
    assert done.text.startswith(" cold morning")
    assert 0 < done.tokens <= 60


@pytest.mark.parametrize("sampling", [Sampling(), WARM, Sampling(temperature=3, seed=2)])
@pytest.mark.parametrize("prompt", ["Rain fell on", "zebra 東京 ☂"])
def test_every_token_is_the_one_that_the_twin_would_choose(
    prompt: str, sampling: Sampling, model: TextModel, twin: TextTwin
) -> None:
    import torch

    rng = np.random.default_rng([sampling.seed, 0])
    start = [*model.start, *model.encode(prompt)]
    ids = list(start)
    for _ in range(24):
        with torch.no_grad():
            logits = twin.model(input_ids=torch.tensor([ids])).logits[0, -1].numpy()
        if (token := choose(logits, ids, sampling, rng)) == 1:
            break
        ids.append(token)
    (done,) = model.generate([prompt], Generation(max_tokens=24, sampling=sampling))
    assert done.text == model.decode(ids[len(start) :])


def test_the_end_token_ends_a_text_and_is_no_part_of_it(model: TextModel) -> None:
    how = Generation(max_tokens=80, sampling=Sampling(repetition_penalty=1))
    (done,) = model.generate(["He counted the stars until the coffee was cold and the street"], how)
    assert done.reason == "eos"
    assert done.text == " was quiet."
    assert done.tokens == len(model.encode(done.text))


def test_max_tokens_ends_a_text(model: TextModel) -> None:
    (done,) = model.generate(["The nurse"], Generation(max_tokens=3))
    assert (done.reason, done.tokens) == ("length", 3)


@pytest.mark.parametrize("stop", ["cold", "old mo", "d", " cold morning and"])
def test_a_stop_string_ends_a_text_even_across_tokens(stop: str, model: TextModel) -> None:
    prompt = "The nurse walked to the harbour in the"
    sampling = Sampling(repetition_penalty=1)
    (whole,) = model.generate([prompt], Generation(max_tokens=40, sampling=sampling))
    assert stop in whole.text
    how = Generation(max_tokens=40, stop=("never seen", stop), sampling=sampling)
    (done,) = model.generate([prompt], how)
    assert done.reason == "stop"
    assert done.text == whole.text[: whole.text.index(stop)]
    assert "".join(model.stream(prompt, how)) == done.text


def test_the_earliest_of_several_stops_counts(model: TextModel) -> None:
    prompt = "The nurse walked to the harbour in the"
    how = Generation(
        max_tokens=40, stop=("morning", "cold"), sampling=Sampling(repetition_penalty=1)
    )
    assert model.generate([prompt], how)[0].text == " "


@few_examples
@given(
    seed=st.integers(0, 1000),
    stops=st.lists(st.text("abe thn.", min_size=1, max_size=4), max_size=3),
)
def test_a_stream_is_the_text_in_pieces_without_any_part_of_a_stop(
    seed: int, stops: list[str], model: TextModel
) -> None:
    sampling = Sampling(temperature=1.2, seed=seed)
    how = Generation(max_tokens=25, stop=tuple(stops), sampling=sampling)
    pieces = list(model.stream("The", how))
    (done,) = model.generate(["The"], how)
    assert "".join(pieces) == done.text
    assert all(pieces)
    assert not any(stop in done.text for stop in stops)


def feed(model: TextModel, ids: list[int], how: Generation) -> Iterator[str]:
    """What a stream shows when the base writes ``ids``."""
    row, sent = _Row(model, [0], how, 0), 0
    for token in ids:
        logits = np.zeros(512, np.float32)
        logits[token] = 1
        row.advance(logits)
        stable = row.stable_text()
        if len(stable) > sent:
            yield stable[sent:]
            sent = len(stable)
        if row.reason:
            break
    yield row.completion().text[sent:]


@given(text=st.text(min_size=1, max_size=12), stop=st.text(min_size=1, max_size=3))
@few_examples
def test_a_stream_never_takes_a_character_back(text: str, stop: str, model: TextModel) -> None:
    ids = model.encode(text)
    how = Generation(max_tokens=len(ids), stop=(stop,), sampling=Sampling(repetition_penalty=1))
    if text != model.decode(ids):
        return  # the text of a special token
    expected = text[: text.index(stop)] if stop in text else text
    pieces = list(feed(model, ids, how))
    assert "".join(pieces) == expected
    for i in range(len(pieces)):
        assert expected.startswith("".join(pieces[:i]))


def test_no_half_character_is_streamed(model: TextModel) -> None:
    text = "☂東🙂é"
    assert len(model.encode(text)) > len(text)
    how = Generation(max_tokens=99, sampling=Sampling(repetition_penalty=1))
    assert [p for p in feed(model, model.encode(text), how) if p] == list(text)


def test_the_same_seed_repeats_and_another_differs(model: TextModel) -> None:
    how = Generation(max_tokens=20, sampling=WARM)
    assert model.generate(["The"], how) == model.generate(["The"], how)
    other = Generation(max_tokens=20, sampling=Sampling(temperature=1.5, top_p=0.95, seed=8))
    assert model.generate(["The"], how) != model.generate(["The"], other)


def test_rows_of_a_batch_draw_for_themselves(model: TextModel) -> None:
    one, two = model.generate(["The", "The"], Generation(max_tokens=20, sampling=WARM))
    assert one.text != two.text


def test_a_context_that_is_too_long_is_refused(model: TextModel) -> None:
    with pytest.raises(ContextLengthError, match="do not fit in the base's context of 256"):
        model.generate(["The"], Generation(max_tokens=255))
    with pytest.raises(ContextLengthError):
        model.generate(["The", "word " * 300], Generation(max_tokens=1))
    with pytest.raises(ContextLengthError):
        model.score(["word " * 300], ["x"])
    assert model.generate(["The"], Generation(max_tokens=254))


def test_bad_requests_are_refused(model: TextModel) -> None:
    with pytest.raises(BadInputError, match="at least one prompt"):
        model.generate([])
    with pytest.raises(BadInputError, match="max_tokens must be at least 1, got 0"):
        Generation(max_tokens=0)
    with pytest.raises(BadInputError, match="stop string must not be empty"):
        Generation(stop=("a", ""))


# --- scores ---------------------------------------------------------------------------------


def test_scores_equal_the_twins_losses(model: TextModel, twin: TextTwin) -> None:
    import torch

    contexts = ["The nurse walked", "", "Dear Ada, thank you"]
    targets = [" to the harbour", "Rain fell on the tin roof", " x"]
    found = model.score(contexts, targets)
    for context, target, losses in zip(contexts, targets, found, strict=True):
        ids = [*model.start, *model.encode(context), *model.encode(target)]
        with torch.no_grad():
            log_p = twin.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        count = len(model.encode(target))
        expected = [-log_p[i - 1, ids[i]].item() for i in range(len(ids) - count, len(ids))]
        assert losses.shape == (count,)
        np.testing.assert_allclose(losses, expected, atol=1e-3)


def test_a_score_does_not_depend_on_its_batch(model: TextModel) -> None:
    contexts, targets = ["The nurse", "R", ""], [" walked to", "ain fell on the tin roof", "x"]
    together = model.score(contexts, targets)
    for i in range(3):
        (alone,) = model.score(contexts[i : i + 1], targets[i : i + 1])
        np.testing.assert_allclose(together[i], alone, atol=1e-4)


def test_bad_scores_are_refused(model: TextModel) -> None:
    with pytest.raises(BadInputError, match="must not be empty"):
        model.score(["a"], [""])
    with pytest.raises(BadInputError, match="1 contexts do not match 2 targets"):
        model.score(["a"], ["b", "c"])


# --- what the package says ------------------------------------------------------------------


def edited(package: Package, folder: Path, key: Ed25519PrivateKey, **details: object) -> TextModel:
    shutil.copytree(package.folder, folder)
    manifest = package.manifest
    sign_package(
        folder,
        key=key,
        name=manifest.name,
        modality="text",
        precision=manifest.precision,
        details={**manifest.details, **details},
    )
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return TextModel(open_package(folder, trusted=[raw]), threads=1)


def test_chat_uses_the_bases_own_template(model: TextModel) -> None:
    assert model.chat_prompt("Hi") == "<|start|>user\nHi<|end|>\n<|start|>assistant\n"


def test_a_base_without_template_cannot_chat(
    package: Package, tmp_path: Path, key: Ed25519PrivateKey
) -> None:
    model = edited(package, tmp_path / "copy", key, chat=None)
    with pytest.raises(BadInputError, match="has no chat template"):
        model.chat_prompt("Hi")


def test_a_base_without_special_tokens(
    package: Package, tmp_path: Path, key: Ed25519PrivateKey
) -> None:
    special = {"bos": None, "eos": None, "pad": None}
    model = edited(package, tmp_path / "copy", key, special=special)
    assert model.start == []
    assert model.generate(["The"], Generation(max_tokens=4))[0].reason == "length"
    with pytest.raises(BadInputError, match="the prompt is empty"):
        model.generate([""])
    with pytest.raises(BadInputError, match="every target needs a context"):
        model.score([""], ["The"])
    assert model.score(["The"], [" nurse"])[0].shape == (len(model.encode(" nurse")),)


def test_opening_verifies(package: Package, tmp_path: Path, trusted: list[bytes]) -> None:
    shutil.copytree(package.folder, tmp_path / "copy")
    assert TextModel.open(tmp_path / "copy", trusted=trusted, threads=1).base_id == package.base_id
    (tmp_path / "copy" / "config.json").write_text(json.dumps({}))
    with pytest.raises(IntegrityError):
        TextModel.open(tmp_path / "copy", trusted=trusted)
