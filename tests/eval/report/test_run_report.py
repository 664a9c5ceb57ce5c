import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from splitleak.artifacts import write_json
from splitleak.eval.report.run_report import load_run, write_report


@pytest.fixture
def run(tmp_path, record):
    """Two cells; the second was made first, and its target's name is an attack on the reader."""
    record(tmp_path / "b", order=0, noise=0.05)
    record(tmp_path / "a", order=1, noise=0.3)
    renamed = json.loads((tmp_path / "a" / "record.json").read_text())
    renamed["target"]["name"] = "<script>alert('x')</script>"
    write_json(tmp_path / "a" / "record.json", renamed)
    return tmp_path


@pytest.fixture
def page_of(parsed):
    def write(run, **options):
        write_report(run, run / "report.html", **{"title": "A & B", "pictures": 5, **options})
        html = (run / "report.html").read_text(encoding="utf-8")
        return html, parsed(html)

    return write


def test_records_come_in_the_order_in_which_they_were_made(run):
    records, latency = load_run(run)
    assert [record["order"] for record in records] == [0, 1]
    assert latency is None


def test_the_report_needs_no_other_file_and_no_network(run, page_of):
    html, page = page_of(run)
    assert page.loaded
    assert all(loaded.startswith("data:image/png;base64,") for loaded in page.loaded)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?://|url\(|@import", html)


def test_every_victim_stands_beside_every_copy(run, page_of):
    _, page = page_of(run)
    assert len(page.loaded) == 5 * 3
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))) for uri in page.loaded]
    with np.load(run / "b" / "pictures.npz") as first, np.load(run / "a" / "pictures.npz") as second:
        for place in range(5):
            truth, close, far = pictures[3 * place : 3 * place + 3]
            for name, cell, shown in (("truth", first, truth), ("rebuilt", first, close), ("rebuilt", second, far)):
                assert np.array_equal(shown, cell[name][int(np.flatnonzero(cell["places"] == place)[0])][0])


def test_the_ssim_under_a_picture_is_that_pictures(run, page_of):
    _, page = page_of(run)
    records, _ = load_run(run)
    shown = [float(text.split()[1]) for text in page.text if re.fullmatch(r"SSIM -?[\d.]+", text)]
    expected = []
    for place in range(5):
        for record, folder in zip(records, "ba", strict=True):
            with np.load(run / folder / "pictures.npz") as cell:
                at = int(np.flatnonzero(cell["places"] == place)[0])
            expected.append(record["score"]["ssim"]["values"][at])
    assert shown == pytest.approx(expected, abs=0.0051)


def test_names_are_escaped(run, page_of):
    html, page = page_of(run, title="<img src=x>")
    assert "script" not in page.tags
    assert "<img src=x>" not in html
    assert "<script>alert('x')</script>" in "".join(page.text)


def test_the_latency_of_the_run_is_in_the_table(run, page_of):
    parts = ("edge_ms", "wire_ms", "cloud_ms", "total_ms")
    targets = {"toy": {part: {"p50": 1.23, "p95": 4.56} for part in parts}}
    write_json(run / "latency.json", {"samples": 10, "targets": targets, "provenance": {"hardware": "abacus"}})
    html, _ = page_of(run)
    assert "1.23 / 4.56" in html
    assert "on abacus" in html


def test_doubts_are_shown(run, page_of):
    html, _ = page_of(run)
    assert "not converged" in html


def test_a_run_without_records_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected records"):
        write_report(tmp_path, tmp_path / "report.html", title="", pictures=1)


def test_records_of_different_victims_are_refused(run):
    path = run / "a" / "pictures.npz"
    with np.load(path) as file:
        arrays = dict(file)
    arrays["places"] += 1000
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="the same victims"):
        write_report(run, run / "report.html", title="", pictures=1)
    assert not (run / "report.html").exists()
