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
