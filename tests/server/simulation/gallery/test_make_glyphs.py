"""The fonts of the writers are pinned, licensed, and drawn at one scale."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL")

from locavore.server.simulation.data.make_glyphs import SIZE, alphabet, fetch, fonts
from locavore.server.simulation.gallery.glyphs import load_glyphs
from locavore.shared.errors import BadInputError


def test_every_writer_is_a_font_with_its_licence_and_its_hash() -> None:
    rows = fonts()
    assert [row.font for row in rows] == [writer.name for writer in load_glyphs().artists]
    assert {row.licence for row in rows} == {"OFL-1.1", "Apache-2.0"}
    assert all(len(row.sha256) == 64 and "opyright" in row.copyright for row in rows)


def test_another_package_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    font = replace(fonts()[0], version="0")
    (tmp_path / font.archive).write_bytes(b"other")
    with pytest.raises(BadInputError, match=r"but .* is pinned"):
        fetch(font, tmp_path)


def test_an_alphabet_has_one_baseline_and_one_scale() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    letters = alphabet(font.read_bytes(), "alp")
    assert letters.shape == (3, SIZE, SIZE)
    ink = letters < 128
    rows = [np.flatnonzero(letter.any(axis=1)) for letter in ink]
    assert rows[0][-1] == rows[1][-1] < rows[2][-1]  # a and l stand on the line, p goes below
    assert rows[1][0] < rows[0][0]  # l is taller than a
    for letter in ink:
        columns = np.flatnonzero(letter.any(axis=0))
        assert abs((columns[0] + columns[-1]) / 2 - (SIZE - 1) / 2) <= 1
    assert 27 <= rows[2][-1] - rows[1][0] + 1 <= 29  # of 32, less the margins
