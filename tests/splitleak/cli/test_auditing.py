import json

import pytest

from tests.bench.kill_campaign import results


@pytest.fixture(scope="module")
def audit(trained, images, tmp_path_factory, left_alone, kills):
    """An audit that was left alone."""
    minutes = 0.3 * kills  # the more often a run is killed, the more it has to do
    given = ("audit", str(trained), "--images", str(images), "--minutes", str(minutes))
    return left_alone(*given, out=tmp_path_factory.mktemp("audit") / "alone")


@pytest.fixture
def document(call, audit):
    """``document(folder)``: what the audit there says as JSON, once what is left of it is done."""

    def read(folder):
        code, out, err = call(*audit.given, "--out", folder, "--json")
        assert code == 0, err
        return json.loads(out)

    return read


@pytest.mark.slow
def test_an_audit_attacks_a_target_through_the_chain_and_says_what_it_leaks(audit, document):
    assert "toy: the strongest of" in audit.said
    assert "flag: one seed" in audit.said
    assert (audit.out / "report" / "report.html").is_file()
    found = document(audit.out)
    assert len(found["verdict"]) == 1
    [(title, rows)] = found["tables"].items()
    assert title == "Audit (audit 2, black-box)"
    assert rows[0][0] == "toy"
    table = (audit.out / "report" / "table.csv").read_text()
    assert all(name in table for name in ("nearest", "linear", "decoder"))


@pytest.mark.slow
def test_an_audit_killed_at_random_moments_ends_with_the_records_of_one_left_alone(
    audit, document, killed_again, tmp_path
):
    out = tmp_path / "audit"
    killed_again(audit, out, 98)
    again, alone = document(out), document(audit.out)
    assert again | {"report": None} == alone | {"report": None}
    left = results(audit.out)
    assert len(left) >= 3 * 2 + 2  # record and pictures of each attack; what tells no picture, and its settings
    assert results(out) == left


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
    assert title == "Audit (audit 2, predictions)"
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
