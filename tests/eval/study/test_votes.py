import json

import pytest
from typer.testing import CliRunner

from splitleak.artifacts import write_json
from splitleak.cli import app
from splitleak.eval.study.votes import score_votes
from splitleak.measures.proportion import wilson

SIDES = ("a", "b", "b", "a")


@pytest.fixture
def key(tmp_path):
    pairs = [{"pair": n, "label": n // 2, "turn": 0, "left": side} for n, side in enumerate(SIDES)]
    write_json(tmp_path / "key.json", {"study": "s", "a": {"attack": "x"}, "b": {}, "seed": 0, "pairs": pairs})
    return tmp_path / "key.json"


@pytest.fixture
def voted(tmp_path):
    """``voted(name, choices)`` writes a file of votes and returns its path."""

    def make(voter, choices, study="s"):
        votes = [{"pair": pair, "choice": choice, "seconds": 2.5} for pair, choice in choices]
        path = tmp_path / f"{voter}.json"
        write_json(path, {"study": study, "voter": voter, "votes": votes})
        return path

    return make


def test_a_side_counts_for_whom_it_shows(key, voted):
    one = voted("one", [(0, "left"), (1, "right"), (2, "left"), (3, None)])  # a, a, b
    two = voted("two", [(3, "left"), (1, "left")])  # a, b
    found = score_votes([one, two], key)
    assert (found["answers"], found["unanswered"]) == (5, 1)
    assert found["a"] == {"attack": "x", **wilson(3, 5).document()}
    assert found["b"] == wilson(2, 5).document()
    assert found["voters"]["1 one"] == {"a": pytest.approx(2 / 3), "answers": 3}
    assert found["voters"]["2 two"] == {"a": 0.5, "answers": 2}
    assert found["classes"] == {"0": {"a": pytest.approx(2 / 3), "answers": 3}, "1": {"a": 0.5, "answers": 2}}
    assert found["interval"] == "Wilson"


def test_always_choosing_one_side_is_no_preference(key, voted):
    assert score_votes([voted("lefty", [(n, "left") for n in range(4)])], key)["a"]["share"] == 0.5


@pytest.mark.parametrize(
    ("choices", "study"), [([(0, "left"), (0, "left")], "s"), ([(4, "left")], "s"), ([(0, "left")], "another")]
)
def test_votes_that_are_not_of_this_study_or_count_twice_are_refused(key, voted, choices, study):
    with pytest.raises(ValueError, match="expected votes of study 's', one a pair"):
        score_votes([voted("odd", choices, study)], key)


def test_the_votes_of_one_file_do_not_count_twice(key, voted, tmp_path):
    one, two = voted("one", [(0, "left")]), voted("two", [(0, "left")])
    for given in ([one, two, one], [one, tmp_path / "." / "one.json"]):
        with pytest.raises(ValueError, match=r"expected different files of votes, got .* twice"):
            score_votes(given, key)
    (tmp_path / "copy.json").write_bytes(one.read_bytes())
    with pytest.raises(ValueError, match=r"got the same contents in .*one\.json and .*copy\.json"):
        score_votes([one, two, tmp_path / "copy.json"], key)


def test_nobodys_choice_is_no_preference(key, voted):
    with pytest.raises(ValueError, match="expected at least one choice"):
        score_votes([voted("silent", [(0, None)])], key)


def test_a_file_from_outside_that_is_something_else_is_refused_by_name(key, tmp_path):
    (tmp_path / "bad.json").write_text('{"study": "s", "votes": [{"pair": 0, "choice": "middle"}]}')
    with pytest.raises(ValueError, match=r"bad\.json: expected a Votes"):
        score_votes([tmp_path / "bad.json"], key)


def test_the_command_prints_both_shares_with_their_intervals(key, voted):
    votes = voted("one", [(0, "left"), (1, "right"), (2, "right"), (3, "left")])
    told = CliRunner().invoke(app, ["study-score", str(votes), "--key", str(key)], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    assert "A (x) 100.0%, 51.0% to 100.0%; B (?) 0.0%, 0.0% to 49.0%; 4 answers of 1" in told.stdout
    told = CliRunner().invoke(app, ["study-score", str(votes), "--key", str(key), "--json"], catch_exceptions=False)
    assert json.loads(told.stdout)["a"]["share"] == 1
