"""The README and the documentation: their size, their links, and that what they show runs and prints what they say."""

import ast
import contextlib
import io
import json
import re
from pathlib import Path
from unittest import mock

import pytest

from splitleak.attacker.class_inversion import CLASS_ATTACKS
from splitleak.attacker.reconstruction import ATTACKS
from splitleak.defenses import DEFENSES
from splitleak.eval.campaign.extending import read_campaign
from splitleak.eval.campaign.kinds import KINDS, plan_campaign
from splitleak.eval.record import metrics
from splitleak.models import ARCHITECTURES
from splitleak.wire.protocol import CODECS

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
CLAIMS = ROOT / "docs" / "claims.md"
WRITTEN = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "eval").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def blocks(page):
    """Language and text of each fenced block of a page, in order."""
    return FENCE.findall(page.read_text(encoding="utf-8"))


def anchors(page):
    """What a link may name in a page, as MkDocs and GitHub make it of headings."""
    headings = HEADING.findall(FENCE.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def test_the_readme_is_short_and_narrow():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 120] == []


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_local_link_leads_somewhere(page):
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        made = target.name == "page.html" and (target.parent / "campaign.json").is_file()  # by docs/recorded.py
        if "://" not in link and not made and not (target.exists() and (not anchor or anchor in anchors(target))):
            broken.append(link)
    assert broken == []


def test_the_claims_are_those_of_the_recorded_reports_each_with_its_verdict():
    """All that are tested over seeds, once each, as the report that is named has them."""
    told, recorded = set(), set()
    for text, folder, *figures in re.findall(r"^\| (.+) \| \[(\w+)\]\(\S+\) (\|.+)$", CLAIMS.read_text(), re.MULTILINE):
        told.add((folder, f"| {text} {figures[0]}"))
    for folder in {folder for folder, _ in told}:
        report = (ROOT / "eval" / "results" / folder / "report.md").read_text(encoding="utf-8")
        claims = report.partition("## Claims\n")[2].partition("\n## ")[0].partition("\n### ")[0]
        recorded |= {
            (folder, line) for line in claims.splitlines() if line.startswith("| ") and "statement" not in line
        }
    assert told == recorded


PAGES = [page for page in WRITTEN if any(language == "python" for language, _ in blocks(page))]


@pytest.fixture
def tables():
    """The tables of the library, which are as they were when the test ends: a page may list what it defines."""
    with contextlib.ExitStack() as stack:
        for table in (DEFENSES, ATTACKS, CLASS_ATTACKS, ARCHITECTURES, CODECS, KINDS):
            stack.enter_context(mock.patch.dict(table))
        before = list(metrics.METRICS)
        stack.callback(metrics.METRICS.__setitem__, slice(None), before)
        yield


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow if page == README else ()) for page in PAGES],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_what_a_page_shows_runs_and_prints_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, names, printed = blocks(page), {"__name__": page.stem}, None
    for language, text in found:
        if language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(compile(text, str(page), "exec"), names)  # the page is ours
            printed = output.getvalue()
        elif language == "text" and printed:
            assert text == printed
            printed = None


def test_the_campaign_files_that_a_page_shows_whole_are_planned(tmp_path):
    shown = [text for language, text in blocks(ROOT / "docs" / "campaigns.md") if language == "toml"]
    whole = [text for text in shown if re.search(r"^name = ", text, re.MULTILINE) and not text.startswith("[[")]
    assert len(whole) == 2
    for file in (ROOT / "eval" / "campaigns").glob("*.toml"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for text in whole:
        file = tmp_path / "mine.toml"
        file.write_text(text, encoding="utf-8")
        assert plan_campaign(read_campaign(file), str(file)).cells


@pytest.mark.slow
def test_the_notebook_runs_and_what_it_shows_is_what_it_gave():
    book, names = json.loads((ROOT / "docs" / "library.ipynb").read_text(encoding="utf-8")), {}
    for cell in book["cells"]:
        if cell["cell_type"] != "code":
            continue
        text = "".join(cell["source"])
        *body, last = ast.parse(text).body
        shown = isinstance(last, ast.Expr)
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(compile(ast.Module(body if shown else [*body, last], []), "cell", "exec"), names)  # the book is ours
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names) if shown else None
        for made in cell["outputs"]:
            if made["output_type"] == "stream":
                figure, shown, given = r"\d+\.\d+", "".join(made["text"]), output.getvalue()
                assert re.sub(figure, "x", given) == re.sub(figure, "x", shown)
                figures = [float(each) for each in re.findall(figure, shown)]  # they differ a little between machines
                assert [float(each) for each in re.findall(figure, given)] == pytest.approx(figures, rel=0.15, abs=2e-3)
            else:
                assert repr(value) == "".join(made["data"]["text/plain"])
