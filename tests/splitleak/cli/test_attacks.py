import json

import pytest

from splitleak.cloud.service import CloudConfig, cloud


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "c"),
        (("--set", "epoch=3"), "epoch"),
    ],
)
def test_an_attack_that_cannot_be_is_one_line_on_standard_error(refusal, arguments, said):
    assert said in refusal("attack", "--capture", "c", "--public", "p", "--edge", "e:1", *arguments)


def test_a_model_that_a_service_does_not_have_is_one_line(call, whole, images, tmp_path):
    with cloud(CloudConfig(), whole) as port:
        where = ("--service", f"127.0.0.1:{port}", "--images", images / "victims.npz", "--out", tmp_path)
        code, out, err = call("predict", *where, "--model", "nobody")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "expected a model of ['whole'], got 'nobody'" in err


@pytest.mark.slow
def test_several_budgets_are_an_attack_each(call, whole, images, tmp_path):
    with cloud(CloudConfig(), whole) as port:
        given = ("--service", f"127.0.0.1:{port}", "--public", images / "public.npz", "--set", "epochs=1")
        code, out, err = call("invert", *given, "--max-queries", "50,100", "--out", tmp_path / "out", "--json")
    assert code == 0, err
    assert [json.loads(line)["queries"] for line in out.splitlines()] == [50, 100]
    for budget in (50, 100):
        assert json.loads((tmp_path / "out" / str(budget) / "attack.json").read_text())["queries"] == budget


@pytest.mark.parametrize("budgets", ["", "0", "5,", "5,5", "-3", "1e3", "many"])
def test_budgets_that_are_none_are_usage_errors(call, images, budgets):
    given = ("--public", images / "public.npz", "--service", "127.0.0.1:1", "--max-queries", budgets)
    code, _, err = call("invert", *given)
    assert code == 2
    assert "100,300,1000" in err
