"""The house's own rules: what may be imported, and what is public."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("client", "export", "privacy", "server", "shared")
HEAVY = ("torch", "transformers", "diffusers", "flwr", "onnx", "peft")


def modules() -> list[str]:
    paths = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    names = ["locavore." + ".".join(p.relative_to(ROOT).with_suffix("").parts) for p in paths]
    facade = "locavore.shared.facade"
    return sorted(name.removesuffix(".__init__") for name in names if not name.startswith(facade))


@pytest.mark.parametrize(
    "name",
    [
        "locavore.client",
        "locavore.client.distribution",
        "locavore.client.image_model",
        "locavore.shared.causal_graph",
        "locavore.shared.diffusion_graph",
        "locavore.shared.forms",
        "locavore.shared.twin",
        "locavore.shared.wire",
        "locavore.privacy.plan",
        "locavore.privacy.noise",
    ],
)
def test_the_device_runtime_imports_nothing_heavy(name: str) -> None:
    code = f"import sys, {name}; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", modules())
def test_all_is_sorted_and_true(name: str) -> None:
    parts = name.split(".")[1:]
    path = ROOT.joinpath(*parts)
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            break
    else:
        return  # nothing is promised
    public = ast.literal_eval(node.value)
    assert public == sorted(public, key=lambda n: (not n.isupper(), n[0].islower(), n))
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"needs an extra: {error}")
    assert [n for n in public if not hasattr(module, n)] == []
