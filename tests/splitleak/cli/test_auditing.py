import json

import pytest


@pytest.mark.slow
def test_an_audit_attacks_a_target_through_the_chain_and_says_what_it_leaks(call, trained, images, tmp_path):
    given = ("audit", trained, "--images", images, "--minutes", 0.6, "--out", tmp_path / "audit")
    code, out, err = call(*given)
    assert code == 0, err
    assert "toy: the strongest of 3 attacks gives back" in out
    assert "flag: one seed" in out
    assert (tmp_path / "audit" / "report" / "report.html").is_file()
    code, out, err = call(*given, "--json")  # all of it is done
    document = json.loads(out)
    assert code == 0, err
    assert len(document["verdict"]) == 1
    [(title, rows)] = document["tables"].items()
    assert title == "Audit (audit 1, black-box)"
    assert rows[0][0] == "toy"
    table = (tmp_path / "audit" / "report" / "table.csv").read_text()
    assert all(name in table for name in ("nearest", "linear", "decoder"))


@pytest.mark.slow
def test_an_audit_of_predictions_inverts_what_victims_share(call, trained, images, tmp_path):
    given = (
        "audit",
        trained,
        "--images",
        images,
        "--threat",
        "predictions",
        "--minutes",
        0.2,
        "--out",
        tmp_path / "audit",
    )
    code, out, err = call(*given, "--json")
    assert code == 0, err
    document = json.loads(out)
    [(title, rows)] = document["tables"].items()
    assert title == "Audit (audit 1, predictions)"
    assert [row[0] for row in rows] == ["all scores", "3 highest", "the highest"]
    assert len(document["verdict"]) == 3
    lines = (tmp_path / "audit" / "report" / "records.jsonl").read_text().splitlines()
    seen = [json.loads(line)["threat_model"] for line in lines]
    assert {model["sees"] for model in seen} == {"scores"}


@pytest.mark.parametrize(
    ("option", "message"), [(("--threat", "psychic"), "black-box"), (("--images", "gone"), "expected a folder at gone")]
)
def test_what_cannot_be_audited_is_refused_in_one_line(call, trained, images, option, message):
    code, _, err = call("audit", trained, "--images", images, *option)
    assert code != 0
    assert message in err
    assert "Traceback" not in err
