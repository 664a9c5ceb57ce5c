import json
import re

import pytest

from splitleak.attacker.class_inversion import CLASS_ATTACKS
from splitleak.attacker.reconstruction import ATTACKS
from splitleak.cli.choices import TABLES
from splitleak.cli.listing import describe
from splitleak.defenses import DEFENSES
from splitleak.wire.protocol import CODECS, codec


@pytest.mark.parametrize("kind", TABLES)
def test_every_entry_of_every_table_is_listed_with_a_line_of_description(kind, call):
    code, out, err = call("list", kind)
    assert (code, err) == (0, "")
    for name, entry in TABLES[kind].items():
        summary = describe(entry)["summary"]
        assert 10 < len(summary) < 240
        assert f"{name}: {summary}\n" in out


@pytest.mark.parametrize("table", [ATTACKS, CLASS_ATTACKS, DEFENSES], ids=["attacks", "class-attacks", "defenses"])
def test_every_method_says_which_paper_it_is_from_and_every_setting_of_it(table):
    for name, kind in table.items():
        found = describe(kind)
        if getattr(kind, "baseline", False):  # what an attacker has before any attack: no paper's method
            continue
        assert re.search(r"\b(19|20)\d\d\b", found["source"]), name
        assert "et al." in found["source"] or " and " in found["source"], name
        fields = {row["name"].partition(".")[0] for row in found["settings"]}
        assert fields == set(kind.config_type.model_fields), name


def test_an_entry_is_shown_in_full_with_the_papers_values_beside_the_defaults(call):
    out = call("list", "attacks", "gan")[1]
    assert out.startswith("gan: Trains the decoder of the decoding attack against a Wasserstein critic")
    assert "Gulrajani et al." in out
    assert "source: Xia et al., CEM, CVPR 2025\n" in out
    assert "    epochs = 20 (paper: 150)  epochs with the critic\n" in out
    assert "decoder:" not in out.replace("start = scratch (paper: decoder)  decoder: first", "")


def test_json_holds_the_same(call):
    found = json.loads(call("list", "links", "wifi", "--json")[1])["links"]
    assert [entry["name"] for entry in found] == ["wifi"]
    assert {row["name"]: row["default"] for row in found[0]["settings"]}["down.rate_mbps"] == 30
    assert "Firefox" in found[0]["source"]
    assert json.loads(call("list", "--json")[1])["codecs"] == list(CODECS)


def test_what_is_added_is_listed(call, monkeypatch):
    monkeypatch.setitem(CODECS, "newest", codec.encode_fp16)
    assert "newest: 16-bit floating point" in call("list", "codecs")[1]
    assert "newest" in call("list")[1]


def test_an_unknown_kind_or_name_is_told_the_nearest(call):
    assert call("list", "atacks")[2].endswith("got 'atacks'; did you mean 'attacks'?\n")
    assert call("list", "attacks", "gann")[2].endswith("got 'gann'; did you mean 'gan'?\n")
    assert call("list", "attacks", "gmi")[2].endswith("got 'gmi', which is one of class-attacks\n")
