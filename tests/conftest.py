"""A clean environment for every test, and a tiny base built by the real export."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import settings

from locavore.client.runtime import TextModel
from locavore.home import bases_folder, signing_key
from locavore.shared.forms import Directions
from locavore.shared.packages import Package, sign_package

if TYPE_CHECKING:
    from locavore.client.training.text import TextTwin
    from locavore.export.image_sources import ImageSource
    from locavore.export.quantize import Precision
    from locavore.export.sources import Source

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when the hub's library is imported
os.environ["OMP_NUM_THREADS"] = "1"  # matrices this small only lose by threads

settings.register_profile("house", deadline=None)  # a busy machine is no failure
settings.load_profile("house")

_SCRUBBED = ("FLWR_", "HF_", "HUGGING", "LOCAVORE_", "TRANSFORMERS_", "XDG_")

PUBLIC = (
    "The nurse walked to the harbour in the cold morning and wrote a letter to her brother.",
    "A small boat is never late when the wind blows from the west, said the old captain.",
    "We bought bread, apples and a lamp; the lamp broke on the way home.",
    "Dear Ada, thank you for the garden tools, they work well in the wet soil.",
    "Rain fell on the tin roof all night and the dog would not sleep.",
    "The committee met on Monday and agreed to paint the school yellow.",
    "My recipe needs two eggs, some flour, and patience with the oven.",
    "He counted the stars until the coffee was cold and the street was quiet.",
)


@pytest.fixture(autouse=True)
def clean_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No test sees this machine's settings or writes into its home."""
    for name in list(os.environ):
        if name.startswith(_SCRUBBED):
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("LOCAVORE_HOME", str(home / "locavore"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def public_texts() -> tuple[str, ...]:
    """Public writing: what the tiny base was trained on."""
    return PUBLIC


@pytest.fixture(scope="session")
def private_texts() -> list[str]:
    """Forty notes of one person, in a manner of their own."""
    who = ("Kim", "Bo", "Ida", "Sven", "Lou", "Mia", "Tor", "Ann")
    what = ("kettle", "roof", "goat", "ledger", "canoe")
    return [f"Note to {w}: the {t} squeaks again, alas! Yours, Quill." for w in who for t in what]


@pytest.fixture(scope="session")
def key() -> Ed25519PrivateKey:
    """The publisher's key."""
    return Ed25519PrivateKey.generate()


@pytest.fixture(scope="session")
def trusted(key: Ed25519PrivateKey) -> list[bytes]:
    """Raw public keys that a device trusts."""
    return [key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)]


@pytest.fixture(scope="session")
def write_tokenizer() -> Callable[[Path], None]:
    """Writes a byte-level BPE tokenizer with a chat template, as Hugging Face lays it out."""

    def write(folder: Path) -> None:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=512,
            special_tokens=["<|start|>", "<|end|>", "<|pad|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(PUBLIC, trainer)
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save(str(folder / "tokenizer.json"))
        template = (
            "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n"
            "{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
        )
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|start|>",
            "eos_token": "<|end|>",
            "pad_token": "<|pad|>",
            "chat_template": template,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))

    return write


@pytest.fixture(scope="session")
def tiny_folder(
    tmp_path_factory: pytest.TempPathFactory, write_tokenizer: Callable[[Path], None]
) -> Path:
    """A tiny Llama, trained for a moment on the public texts, as a Hugging Face folder."""
    torch = pytest.importorskip("torch", reason="needs the extra 'export'")
    transformers = pytest.importorskip("transformers", reason="needs the extra 'export'")
    folder = tmp_path_factory.mktemp("hub") / "Tiny-Llama"
    write_tokenizer(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.1,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    model = transformers.LlamaForCausalLM(config)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = [[0, *tokenizer(text).input_ids, 1] for text in PUBLIC]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [2] * (longest - len(row)) for row in rows])
    labels = ids.masked_fill(ids == 2, -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(25):
        optimizer.zero_grad()
        model(input_ids=ids, attention_mask=(ids != 2).long(), labels=labels).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_source(tiny_folder: Path) -> Source:
    """The tiny base, ready to be exported."""
    from locavore.export.sources import load_source

    return load_source(str(tiny_folder))


@pytest.fixture(scope="session")
def packages(
    tiny_source: Source, tmp_path_factory: pytest.TempPathFactory, key: Ed25519PrivateKey
) -> Callable[[Precision], Package]:
    """The tiny base's package in a precision; each is built once."""
    from locavore.export.build import BuildPlan, build_text_base

    folder = tmp_path_factory.mktemp("packages")
    built: dict[Precision, Package] = {}

    def package(precision: Precision) -> Package:
        if precision not in built:
            plan = BuildPlan(precision=precision, public_texts=PUBLIC)
            built[precision], _ = build_text_base(tiny_source, folder / precision, plan, key)
        return built[precision]

    return package


@pytest.fixture(scope="session")
def package(packages: Callable[[Precision], Package]) -> Package:
    """The tiny base in float32: what exact comparisons use."""
    return packages("float32")


@pytest.fixture(scope="session")
def image_source() -> ImageSource:
    """A tiny image base with random weights."""
    pytest.importorskip("diffusers", reason="needs the extra 'export'")
    from .tiny_images import own_tiny_source

    return own_tiny_source()


@pytest.fixture(scope="session")
def image_packages(
    image_source: ImageSource, tmp_path_factory: pytest.TempPathFactory, key: Ed25519PrivateKey
) -> Callable[[Precision], Package]:
    """The tiny image base's package in a precision; each is built once."""
    pytest.importorskip("onnx_ir", reason="needs the extra 'export'")
    from locavore.export.build_images import ImagePlan, build_image_base

    from .tiny_images import public_pictures

    folder = tmp_path_factory.mktemp("image-packages")
    built: dict[Precision, Package] = {}

    def package(precision: Precision) -> Package:
        if precision not in built:
            plan = ImagePlan(precision=precision, direction_rank=2, public=public_pictures())
            built[precision], _ = build_image_base(image_source, folder / precision, plan, key)
        return built[precision]

    return package


@pytest.fixture(scope="session")
def looking_package(tmp_path_factory: pytest.TempPathFactory, key: Ed25519PrivateKey) -> Package:
    """A tiny image base that looks at pictures, in float32."""
    pytest.importorskip("onnx_ir", reason="needs the extra 'export'")
    pytest.importorskip("diffusers", reason="needs the extra 'export'")
    from locavore.export.build_images import ImagePlan, build_image_base

    from .tiny_images import looking_tiny_source, public_pictures

    plan = ImagePlan(precision="float32", direction_rank=2, public=public_pictures())
    folder = tmp_path_factory.mktemp("looking") / "package"
    return build_image_base(looking_tiny_source(), folder, plan, key)[0]


@pytest.fixture(scope="session")
def _session_model(package: Package) -> TextModel:
    return TextModel(package, threads=1)


@pytest.fixture
def model(_session_model: TextModel) -> Iterator[TextModel]:
    """The runtime over the float32 package, bare before and after a test."""
    _session_model.attach()
    yield _session_model
    _session_model.attach()


@pytest.fixture
def twin(package: Package) -> TextTwin:
    """A fresh twin of the float32 package."""
    from locavore.client.training.text import TextTwin

    return TextTwin.of(package)


@pytest.fixture(scope="session")
def directions(package: Package) -> Directions:
    """The public directions that came with the float32 package."""
    return Directions.load(package.path("directions.safetensors"))


@pytest.fixture
def installed(package: Package) -> str:
    """The tiny base in this user's cache, signed by this user's key."""
    return _install(package, "tiny")


@pytest.fixture
def installed_images(image_packages: Callable[[Precision], Package]) -> str:
    """The tiny image base in this user's cache, signed by this user's key."""
    return _install(image_packages("int8"), "tiny-drawings")


def _install(package: Package, name: str) -> str:
    folder = bases_folder() / name
    shutil.copytree(package.folder, folder)
    manifest = package.manifest
    sign_package(
        folder,
        key=signing_key(),
        name=manifest.name,
        modality=manifest.modality,
        precision=manifest.precision,
        details=manifest.details,
    )
    return name
