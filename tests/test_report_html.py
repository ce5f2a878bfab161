"""A report: whole, escaped, self-contained, readable in both themes, the same for the same fits."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from reports import Element, Page, colours, write_comparison
from zoo import CASES, SEQUENCE_CASES, clusters

import ppl_gen as pg
from ppl_gen import cli
from ppl_gen.errors import SettingError, StorageError
from ppl_gen.html.document import POLICY, document, style
from ppl_gen.html.markup import escape
from ppl_gen.html.sources import read
from ppl_gen.html.wording import MINUS, figure

PARTS = ["The model", "Whether to believe it", "Pictures", "Samples beside the data", "How probable rows are",
         "Settings", "What to do next"]  # fmt: skip
EVIL = "<script>alert('a')</script>"
EM = pg.EM(num_starts=2, num_bootstraps=4)


@pytest.fixture(scope="module", autouse=True)
def few_pictures() -> Iterator[None]:
    """One picture a fit: the tests of pictures are elsewhere."""
    patch = pytest.MonkeyPatch()
    patch.setattr("ppl_gen.html.document.MAX_PICTURES", 1)
    yield
    patch.undo()


def attacks() -> pd.DataFrame:
    """Two columns whose names attack markup and attributes, with a missing entry."""
    frame = clusters(60).rename(columns={"height": EVIL, "mass": '" onload="alert(1)'})
    frame.iloc[3, 1] = np.nan
    return frame


@pytest.fixture(scope="module")
def evil() -> pg.Fit:
    return pg.fit(pg.GMM(2), attacks(), engine=EM, seed=0)


@pytest.fixture(scope="module")
def other() -> pg.Fit:
    return pg.fit(pg.GMM(1), attacks(), engine=EM, seed=0)


@pytest.fixture(scope="module")
def compared(evil: pg.Fit, other: pg.Fit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared") / "runs"
    return write_comparison(folder, {EVIL: evil, "one <b>": other})


@pytest.fixture(scope="module")
def text(compared: Path) -> str:
    """The report on a comparison of two fits."""
    return document(read(compared))


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def check_page(page: Page) -> None:
    """What holds for every report: headings, names of pictures, tables, nothing from elsewhere."""
    levels = [int(element.name[1]) for element in page.all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert max(np.diff(levels)) <= 1
    for image in page.all("img", "svg"):
        told = image.attributes.get("alt") or image.attributes.get("aria-label", "")
        assert len(told) > 20
        assert re.search(r"\d|depends on|drawn|:", told)
        assert image.name == "img" or image.attributes["role"] == "img"
    assert all(image.attributes["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    assert not page.all("script", "link", "iframe", "object", "embed", "base", "form")
    assert all(link.attributes["href"].startswith("#") for link in page.all("a"))
    anchors = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(set(anchors)) == len(anchors)
    assert {link.attributes["href"][1:] for link in page.all("a")} <= set(anchors)
    assert not [name for element in page.elements for name in element.attributes if name.startswith("on")]
    assert all(cell.attributes.get("scope") in ("col", "row") for cell in page.all("th"))
    assert len(page.all("table")) == len(page.all("caption"))
    (root,), (main,), (nav,) = page.all("html"), page.all("main"), page.all("nav")
    assert root.attributes["lang"] == "en"
    assert main.within == nav.within == ("html", "body")
    metas = {meta.attributes.get("name") or meta.attributes.get("http-equiv"): meta for meta in page.all("meta")}
    assert "width=device-width" in metas["viewport"].attributes["content"]
    assert metas["Content-Security-Policy"].attributes["content"] == POLICY


def of_class(page: Page, kind: str) -> list[Element]:
    return [element for element in page.elements if kind in element.attributes.get("class", "").split()]


def test_a_comparison_has_all_its_parts(page: Page, text: str) -> None:
    check_page(page)
    heads = [element.text for element in page.all("h2")]
    assert heads[:3] == ["What was asked", "The data at a glance", "The ranking"]
    assert heads[3:] == [EVIL, "one <b>", "What to do next"]
    assert [element.text for element in page.all("h3")] == ["Verdicts", "Left out", *PARTS, *PARTS]
    assert not of_class(page, "problem")
    for said in ("tables/<b>cells</b>.csv", "150 rows x 2 columns", "30 rows held out", "5 min 0 s",
                 "name the column that orders them (--order, --sequence).", "With 30 rows the standard errors",
                 f"at least {MINUS}2.500 ± 0.200", f"{MINUS}1.000 ± 0.250",
                 "fits and scores", "is not that of the ranking", "trust it", "88 %", "1 (2 %)"):  # fmt: skip
        assert said in page.all("main")[0].text
    assert len(text.encode()) < 3_000_000


def test_names_are_text(text: str, page: Page) -> None:
    assert EVIL in page.all("main")[0].text
    assert "<script" not in text
    assert '" onload="alert(1)' in page.all("main")[0].text
    assert '" onload="' not in text


def test_fits_of_the_same_rows_are_ranked(evil: pg.Fit, other: pg.Fit) -> None:
    expected = pg.compare({"two": evil, "one": other})
    page = Page(document(read({"two": evil, "one": other})))
    check_page(page)
    (ranking,) = [e for e in page.all("table") if e.text.startswith("Models ranked")]
    best = expected.frame.iloc[0]
    assert figure(best["elpd"] / len(expected.pointwise), 3) in ranking.text
    assert expected.warnings[0] in page.all("main")[0].text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flow-realnvp", "gan", "hmm-poisson"])
def test_families_have_all_their_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pictures, each of which has its own tests, but with the commands that draw them."""
    monkeypatch.setattr("ppl_gen.html.document.MAX_PICTURES", 0)
    case = (CASES | SEQUENCE_CASES)[name]
    steps = {"max_steps": 60, "num_members": 1} if hasattr(case.engine, "max_steps") else {}
    options = {"sequence": "who", "order": "day"} if name in SEQUENCE_CASES else {}
    fit = pg.fit(case.family, case.table(), engine=case.engine.replace(**steps), seed=0, **options)
    page = Page(document(read(fit)))
    check_page(page)
    assert [element.text for element in page.all("h3")] == PARTS
    assert not of_class(page, "problem")
    assert any(element.text.startswith("ppl-gen plot RUN --kind ") for element in page.all("code"))
    sites = {"flow-realnvp": "x", "gan": "z", "hmm-poisson": "transition_matrix"}
    assert sites[name] in [element.text for element in of_class(page, "name")]


def test_what_fails_is_told_and_the_rest_comes(evil: pg.Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ArithmeticError("no <i>digits</i> left")

    monkeypatch.setattr("ppl_gen.html.fit_section.graph", fails)
    monkeypatch.setattr("ppl_gen.html.pictures.png", fails)
    page = Page(document(read(evil)))
    assert [element.text for element in page.all("h3")] == PARTS
    problems = [element.text for element in of_class(page, "problem")]
    assert problems[0] == "The graph could not be made: no <i>digits</i> left."
    assert len(problems) == 1 + 1 + 1  # the graph, a picture, the samples
    assert not page.all("img")


def test_a_model_whose_fit_is_gone_is_told(compared: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(compared, tmp_path / "copy"))
    shutil.rmtree(folder / "fits" / "m0")
    document_ = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    document_["models"][1]["run"] = "../../etc"
    (folder / "comparison.json").write_text(json.dumps(document_), encoding="utf-8")
    subject = read(folder)
    assert [run.fit for run in subject.runs] == [None, None]
    page = Page(document(subject))
    check_page(page)
    problems = [element.text for element in of_class(page, "problem")]
    assert "there is no such folder" in problems[0]
    assert "outside the comparison's folder" in problems[1]


def test_what_can_not_be_reported_on(evil: pg.Fit, compared: Path, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine", encoding="utf-8")
    with pytest.raises(StorageError, match="exists already"):
        pg.report(evil, tmp_path / "report.html")
    with pytest.raises(SettingError, match=r"must end in \.html"):
        pg.report(evil, tmp_path / "report.pdf")
    with pytest.raises(SettingError, match="at least one fit"):
        pg.report([], tmp_path / "a.html")
    with pytest.raises(SettingError, match="not on int"):
        pg.report([3], tmp_path / "a.html")
    with pytest.raises(SettingError, match="one comparison, or on fits"):
        pg.report([compared, evil], tmp_path / "a.html")
    with pytest.raises(StorageError, match="no such folder"):
        pg.report(tmp_path / "nowhere", tmp_path / "a.html")
    (tmp_path / "bad").mkdir()
    for content, what in (("{", "not JSON"), ("[]", "no list of models"), ('{"format": 9, "models": []}', "format 9"),
                          ('{"format": 1, "models": []}', "no model")):  # fmt: skip
        (tmp_path / "bad" / "comparison.json").write_text(content, encoding="utf-8")
        with pytest.raises(StorageError, match=what):
            pg.report(tmp_path / "bad", tmp_path / "a.html")
    assert not (tmp_path / "a.html").exists()


def test_the_command_line_writes_it(
    compared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also that the same fits give the same bytes."""
    shown: list[str] = []
    monkeypatch.setattr("typer.launch", shown.append)
    out = tmp_path / "new" / "report.html"
    assert cli.main(["report", str(compared), "-o", str(out), "--json", "--open"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"runs": [str(compared)], "report": str(out), "bytes": out.stat().st_size}
    assert out.read_text(encoding="utf-8") == text
    assert shown == [out.as_uri()]
    assert cli.main(["report", str(compared), "-o", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_fits_without_names_get_some(evil: pg.Fit, other: pg.Fit) -> None:
    names = [run.name for run in read([evil, other, dataclasses.replace(evil)]).runs]
    assert len(set(names)) == 3
    assert "gmm num_components=1" in names


PROBE = """
<script>
addEventListener("load", () => {
  const wide = [...document.body.querySelectorAll("*")].filter((e) =>
    !e.parentElement.closest(".scroll, svg") && e.getBoundingClientRect().right > innerWidth + 0.5);
  const box = (e) => getComputedStyle(e);
  const found = {
    width: innerWidth, page: document.documentElement.scrollWidth, wide: wide.map((e) => e.outerHTML.slice(0, 120)),
    fetched: performance.getEntriesByType("resource").map((e) => e.name).filter((name) => !name.startsWith("data:")),
    images: [...document.images].every((image) => image.complete && image.naturalWidth > 100),
    ink: box(document.body).color, paper: box(document.body).backgroundColor,
    scroll: [...document.querySelectorAll(".scroll")].some((e) => e.scrollWidth > e.clientWidth),
  };
  parent.postMessage(JSON.stringify(found), "*");
});
</script>
"""
# A window has a least width, which is wider than a phone; a frame has none.
WINDOW = """<!DOCTYPE html><html><head><meta name="color-scheme" content="light dark"></head><body>
<script>addEventListener("message", (event) => { document.documentElement.dataset.probe = event.data; });</script>
<iframe src="copy.html" width="%d" height="900" style="border: 0"></iframe></body></html>
"""


def browse(folder: Path, *words: str) -> str:
    """What the browser printed of a page in the folder, with a profile of its own."""
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no chromium is on PATH")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
               f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=2000", *words]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.parametrize(("width", "theme"), [(390, "dark"), (1200, "light")])
def test_a_browser_shows_it(text: str, tmp_path: Path, width: int, theme: str) -> None:
    """On a phone and on a desk: nothing is wider than the window but what scrolls in its own box, nothing is fetched,
    and the reader's theme is followed. The copy that is looked at may run the one script that looks."""
    copy = text.replace(escape(POLICY), escape(f"{POLICY}; script-src 'unsafe-inline'"))
    (tmp_path / "copy.html").write_text(copy.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    (tmp_path / "window.html").write_text(WINDOW % width, encoding="utf-8")
    scheme = f"--blink-settings=preferredColorScheme={0 if theme == 'dark' else 1}"
    shown = browse(tmp_path, scheme, "--hide-scrollbars", "--dump-dom", (tmp_path / "window.html").as_uri())
    found = json.loads(html.unescape(re.search(r'data-probe="([^"]*)"', shown)[1]))
    assert found["width"] == found["page"] == width
    assert found["wide"] == found["fetched"] == []
    assert found["images"]
    assert found["scroll"] or width > 390
    expected = colours(style())[theme == "dark"]
    for name in ("ink", "paper"):
        channels = map(int, re.findall(r"\d+", found[name]))
        assert "#" + "".join(f"{channel:02x}" for channel in channels) == expected[name]


def test_it_prints(text: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    browse(tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={tmp_path / 'a.pdf'}",
           (tmp_path / "report.html").as_uri())  # fmt: skip
    data = (tmp_path / "a.pdf").read_bytes()
    assert data.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", data)) >= 4  # each fit begins a page
