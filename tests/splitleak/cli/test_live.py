import json
import urllib.request

import pytest

from splitleak.eval.campaign.processes import service


@pytest.fixture(autouse=True)
def priority(monkeypatch):
    monkeypatch.setattr("os.nice", lambda _: None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("watch", "nothing"), "nothing"),
        (("watch", "c", "--attack", "a"), "expected a folder that `splitleak attack` wrote, got a"),
    ],
)
def test_what_cannot_be_watched_is_one_line_on_standard_error(refusal, arguments, said):
    assert said in refusal(*arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("watch", "c", "--encoder", "e"), "expected --public beside --encoder or --pairs"),
        (("watch", "c", "--attack", "a", "--pairs", "p"), "expected --attack, or --public with --encoder or --pairs"),
        (("up", "a", "--images", "i", "--truth"), "expected --watch beside --attack, --public, --truth"),
        (("tap", "--upstream", "h:1", "--blind", "--watch"), "expected --watch of a tap that reads, got --blind"),
    ],
)
def test_options_that_do_not_go_together_are_refused(call, arguments, said):
    code, _, err = call(*arguments)
    assert code == 2
    assert said in err


@pytest.mark.slow
def test_a_tap_serves_the_page_of_its_capture(tmp_path):
    given = ["tap", "--upstream", "127.0.0.1:1", "--capture", str(tmp_path / "t"), "--listen", "127.0.0.1:0", "--watch"]
    with service(given, tmp_path / "log") as tapping:
        address = tapping.wait_for("watching", 60)["address"]
        with urllib.request.urlopen(f"{address}events", timeout=30) as events:
            assert json.loads(events.readline()[6:])["about"]["capture"] == "t"
        tapping.wait_for("listening", 60)
