import json
import sys

import numpy as np
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


CODE = """
import numpy as np
def features(images): return images[:, :, ::2, ::2]
def scores(images):
    rows = images.reshape(len(images), -1)[:, :10] + 0.01
    return rows / rows.sum(1, keepdims=True)
def fails(images): raise OSError("the other side hung up")
"""


@pytest.fixture
def own_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "of_user_cli.py").write_text(CODE)
    yield
    sys.modules.pop("of_user_cli", None)


def test_a_function_of_the_users_own_takes_the_place_of_a_service(call, own_code, images, tmp_path):
    victims, public = images / "victims.npz", images / "public.npz"
    code, out, err = call("predict", "--function", "of_user_cli:scores", "--images", victims, "--out", "predictions")
    assert code == 0, err
    assert "by 'of_user_cli:scores'" in out
    asked = ("query", "--public", public, "--function")
    code, out, err = call(*asked, "of_user_cli:features", "--out", "pairs.npz", "--max-queries", "20")
    assert (code, out) == (0, "pairs.npz: 20 images after 20 queries\n"), err
    with np.load("pairs.npz") as file:
        assert file["features"].shape == (1, 20, 1, 8, 8)
    assert call(*asked, "of_user_cli:fails")[1:] == (
        "",
        "splitleak: of_user_cli:fails failed for 32 images: OSError: the other side hung up\n",
    )
    assert call(*asked, "of_user_cli:features", "--service", "h:1")[0] == 2
    assert call("predict", "--images", victims)[0] == 2


def test_features_are_attacked_with_a_function_as_the_query_and_scored(call, own_code, images, tmp_path):
    with np.load(images / "victims.npz") as file:
        pictures = file["images"][:4, :, :, None].transpose(0, 3, 1, 2) / 255
    np.save("x.npy", pictures[:, :, ::2, ::2])
    np.save("truth.npy", pictures)
    given = ("attack", "--features", "x.npy", "--public", images / "public.npz", "--set", "epochs=1", "--set")
    code, out, err = call(*given, "channels=4", "--function", "of_user_cli:features", "--out", "attack")
    assert code == 0, err
    code, out, err = call("score", "--reconstructions", "attack", "--truth", "truth.npy", "--out", "scores")
    assert code == 0, err
    assert "over 4 images, without provenance" in out
    code, out, err = call(*given, "channels=4", "--function", "of_user_cli:scores", "--out", "other")
    assert (code, err) == (1, "splitleak: of_user_cli:scores: expected rows of shape (1, 8, 8), got (10,)\n")
