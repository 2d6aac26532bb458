"""Only registries and engines know modalities: everything else in three rooms serves them all."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REGISTRIES = {
    "shared/contexts.py",  # media types
    "shared/tasks.py",
    "shared/metric_names.py",
    "server/simulation/studies.py",
}
ENGINES = {  # of one modality, by their purpose; a registry of a room above names them
    "shared/causal_graph.py",
    "shared/diffusion_graph.py",
    "shared/image_networks.py",
    "shared/image_tokens.py",
    "shared/pictures.py",
    "shared/prompts.py",
    "shared/twin.py",
    "shared/metrics/images.py",
    "shared/metrics/local.py",
    "shared/metrics/text.py",
    "shared/metrics/towers.py",
    "server/simulation/authorship.py",
    "server/simulation/corpus.py",
    "server/simulation/gallery",
    "server/simulation/data",
    "server/simulation/judging.py",
    "server/simulation/lamp.py",
    "server/simulation/picture_tasks.py",
    "server/simulation/picturing.py",
    "server/simulation/quick_audits.py",
    "server/simulation/subjects.py",
    "server/simulation/writing.py",
}
LITERAL = re.compile(r"(image|video|audio|3d|music|speech)(\..*)?|text\.[a-z_]+")
NAME = re.compile(
    r"(^|_|\.)(image|video|audio|picture|pixel|language|causal|mel)s?(_|$|\.)|"
    r"(Text|Image|Video|Audio|Picture)(Model|Twin|Engine|Study)|Pixels|Picture$"
)


def modules() -> list[str]:
    paths = [p for room in ("shared", "privacy", "server") for p in (ROOT / room).rglob("*.py")]
    names = sorted(path.relative_to(ROOT).as_posix() for path in paths)
    known = (*REGISTRIES, *ENGINES, "shared/facade")
    return [name for name in names if not name.startswith(known)]


def mentions(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if LITERAL.fullmatch(node.value):
                yield repr(node.value)
        elif isinstance(node, ast.Compare) and getattr(node.left, "attr", "") == "modality":
            yield ast.unparse(node)
        for field in ("id", "name", "attr", "module", "arg"):
            value = getattr(node, field, None)
            if isinstance(value, str) and NAME.search(value):
                yield value


@pytest.mark.parametrize("name", modules())
def test_a_module_of_all_engines_names_none(name: str) -> None:
    found = sorted(set(mentions((ROOT / name).read_text("utf-8"))))
    allowed = {"'text.color'", "'text.parse_math'"} if name.endswith("plots.py") else set()
    assert set(found) <= allowed, f"{name} knows {', '.join(found)}: let its engine say so"


@pytest.mark.parametrize(
    "source",
    [
        "from ..client.image_model import ImageModel",
        "from ..client.runtime import TextModel",
        "if package.manifest.modality == 'text': pass",
        "kind = 'video'",
        "task = 'text.dialogue'",
        "def f(pixels): pass",
    ],
)
def test_a_mention_is_found(source: str) -> None:
    assert list(mentions(source))


def test_what_is_listed_is_there() -> None:
    assert [name for name in REGISTRIES | ENGINES if not (ROOT / name).exists()] == []
