import pytest


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("latency", "nothing"), "nothing"),
        (("latency", "nothing", "--batch", "1,many"), "batches.1"),
        (("latency", "nothing", "--plot", "latency.pdf"), "latency.pdf"),
        (("recommend", "nothing"), "nothing"),
        (("recommend", "nothing", "--max-bytes", "0"), "max_bytes"),
    ],
)
def test_what_cannot_be_measured_or_weighed_is_one_line_on_standard_error(refusal, arguments, said):
    assert said in refusal(*arguments)
