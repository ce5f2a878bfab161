"""Tables on the screen: numbers are whole, and columns that there is no room for are counted."""

from __future__ import annotations

import pandas as pd
import pytest

from ppl_gen import report


@pytest.mark.parametrize("width", [80, 110])
def test_no_number_is_broken(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(report, "WIDTH", width)
    names = [f"a long name of column {i}" for i in range(8)]
    frame = pd.DataFrame({"row": [7], **{name: [f"{0.1234 + i:.4f}"] for i, name in enumerate(names)}})
    report.table(frame.astype(float), title="Rows")
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= width
    shown = [name for i, name in enumerate(names) if f"{i}.123" in said]
    assert len(shown) >= 4
    left = len(names) - len(shown)
    assert (f"... and {left} more columns: write them to a file with -o" in said) == (left > 0)
