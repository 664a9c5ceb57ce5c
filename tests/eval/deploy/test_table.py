"""The table marks what is recommended, what is on the frontier and what is assumed; the verdict names the nearest."""

from splitleak.eval.deploy.table import COLUMNS, rows, verdict

ONE = {
    "label": "noise, cut 4, uint8",
    "design": "noise",
    "cut": 4,
    "codec": "uint8",
    "accuracy": 88.0,
    "drop": 2.0,
    "mse": 0.006,
    "ssim": 0.8,
    "attack": "decoder",
    "latency_ms": None,
    "bytes_per_image": 624.4,
    "seeds": 3,
    "why": "leaks least of all that fit",
    "on_frontier": True,
    "assumed": True,
}
FOUND = {
    "recommended": "noise, cut 4, uint8",
    "nearest": None,
    "binding": ["max_bytes: cem would"],
    "candidates": [ONE, {**ONE, "label": "cem", "assumed": False, "latency_ms": 2.0}],
    "not_measured": ["a second seed"],
    "notes": ["all on the device"],
}


def test_marks_say_what_is_recommended_on_the_frontier_or_assumed():
    first, second = (dict(zip(COLUMNS, row, strict=True)) for row in rows(FOUND))
    assert (first[""], first["MSE"], first["ms"], first["bytes"]) == ("*", "~0.0060", "n/a", "624")
    assert (second[""], second["MSE"], second["ms"]) == ("-", "0.0060", "2.00")


def test_the_verdict_names_what_binds_and_what_is_missing():
    assert list(verdict(FOUND))[1:] == [
        "Recommended: noise, cut 4, uint8.",
        "Binding: max_bytes: cem would.",
        "Not measured: a second seed.",
        "Note: all on the device.",
    ]


def test_where_nothing_fits_the_verdict_says_what_comes_nearest():
    found = {**FOUND, "recommended": None, "nearest": "cem", "binding": []}
    assert "Nothing measured fits these budgets. Nearest: cem." in list(verdict(found))


def test_what_was_not_measured_is_said_to_be_so():
    [row] = rows({**FOUND, "candidates": [{**ONE, "ssim": None, "assumed": False}]})
    assert dict(zip(COLUMNS, row, strict=True))["SSIM"] == "n/a"
