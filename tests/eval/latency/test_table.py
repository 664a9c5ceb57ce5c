"""A sweep in columns: what differs has one, what is the same is said once."""

from splitleak.eval.latency.latency import summarise
from splitleak.eval.latency.table import break_even_rows, cell_rows, engine_text

SAMPLE = {f"{part}_ms": 1.0 for part in ("encode", "serialise", "network", "queue", "compute")}


def cell(way, **more):
    base = {"target": "t", "cut": 4, "batch": 1, "codec": "fp32", "link": "loopback", "window": 1}
    parts = summarise([{**SAMPLE, "total_ms": 5.0}] * 100)
    told = {"edge_engine": "onnx", "cloud_engine": "onnx", "bytes_per_image": 2100.4, "images_per_s": 199.6}
    return {**base, "way": way, "parts": parts, **told, **more}


def test_a_constant_setting_has_no_column():
    columns, rows, same = cell_rows([cell("split"), cell("split", link="lte")])
    assert columns[:3] == ("link", "way", "bytes/image")
    assert same == "target t, cut 4, batch 1, engine onnx → onnx, window 1"
    assert rows[1] == ("lte", "split, fp32", "2100", *["1.00"] * 5, "5.00", "5.00", "n/a", "200")


def test_missing_values_of_an_alternative_are_a_dash_and_make_no_column():
    device = cell("device", codec=None, link=None, window=None)
    columns, rows, _ = cell_rows([cell("split"), device])
    assert columns[0] == "way"
    assert rows[1][0] == "all on the device"
    _, rows, _ = cell_rows([cell("split"), cell("split", link="lte"), device])
    assert rows[2][0] == "-"


def test_the_engine_is_the_one_that_computed():
    assert engine_text({"engine": "auto", "edge_engine": "fused", "cloud_engine": "torch"}) == "fused → torch"


def test_a_break_even_is_a_rate_or_a_word():
    about = {
        "target": "t",
        "batch": 1,
        "engine": "auto",
        "codec": "fp32",
        "beside": "all on the device",
        "within_noise": False,
    }
    found = [
        {**about, "split_is_faster": "above", "mbit_s": 1.234},
        {**about, "split_is_faster": "never", "mbit_s": None},
    ]
    assert [row[2] for row in break_even_rows([*found, {**found[0], "engine": "torch"}])][1:] == [
        "fp32, auto",
        "fp32, torch",
    ]
    assert {row[2] for row in break_even_rows(found)} == {"fp32"}
    assert [row[-1] for row in break_even_rows(found)] == ["above 1.23 Mbit/s", "never"]
