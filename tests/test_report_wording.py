"""What a report says of one model, of few rows, of sequences and images, and of a comparison whose file is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ppl_gen.errors import StorageError
from ppl_gen.html.sources import read


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("left_out", [1], "a list of models"), ("warnings", 3, "a list of sentences"), ("next", ["x"], "a list of comm"),
     ("columns", 2, "a list of names"), ("rows", "x", "a whole number"), ("seconds", [], "a number"),
     ("unit", {}, "text")],
)  # fmt: skip
def test_a_part_of_another_type_is_told(name: str, value: object, words: str, tmp_path: Path) -> None:
    (tmp_path / "comparison.json").write_text(json.dumps({"format": 1, "models": [{"model": "a"}], name: value}))
    with pytest.raises(StorageError, match=f"json is damaged: {name} must be {words}"):
        read(tmp_path)
