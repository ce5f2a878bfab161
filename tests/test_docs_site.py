"""The pages as a site: the twins stand side by side, a family has all that its page should, and mkdocs builds it."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from ppl_gen import registry

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


@pytest.mark.parametrize("family", sorted(registry.families()))
def test_the_page_of_a_family_has_formulas_a_graph_a_picture_and_both_pairs(family: str) -> None:
    text = (DOCS / f"{family}.md").read_text(encoding="utf-8")
    assert "```math" in text
    assert re.search(r"obs: i = 1", text), "the graph, with its plate"
    assert re.search(r"!\[[^\]]{20,}\]\(images/[\w-]+\.png\)", text), "a picture, with a text that says what it shows"
    assert "## Both pairs, side by side" in text
    for twin in ("numpyro", "pyro"):
        assert f"<!-- excerpt: models/{family}/{twin}_pair.py model -->" in text
    page = runpy.run_path(str(DOCS / "site.py"))["on_page_markdown"](text)
    (first, *_) = re.findall(r'<div class="twins" markdown="1">\n(.*?)\n</div>\n</div>', page, re.DOTALL)
    assert first.count('<div markdown="1">') == 2
    assert first.index("numpyro_pair.py model") < first.index("/pyro_pair.py model")


def test_blocks_that_are_no_twins_stay_as_they_are() -> None:
    columns = runpy.run_path(str(DOCS / "site.py"))["on_page_markdown"]
    block = "In {0}:\n\n<!-- excerpt: models/gmm/{0}_pair.py {1} -->\n```python\nx\n```\n"
    twins = "Text.\n\n" + block.format("numpyro", "model") + "\n" + block.format("pyro", "model")
    others = "Text.\n\n" + block.format("numpyro", "model") + "\n" + block.format("pyro", "guide")
    assert columns(twins).count("<div") == 3
    assert columns(others) == others


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("pymdownx")
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "-d",
        str(tmp_path / "site"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for family in registry.families():
        page = (tmp_path / "site" / family / "index.html").read_text(encoding="utf-8")
        assert '<div class="twins">' in page
        assert 'markdown="1"' not in page
        assert "<!-- excerpt" not in re.sub(r"<!--.*?-->", "", page, flags=re.DOTALL)
    assert (tmp_path / "site" / "site.css").is_file()
