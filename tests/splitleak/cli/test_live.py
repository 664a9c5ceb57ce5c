import contextlib
import json

import pytest


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


def test_a_tap_serves_the_page_of_its_capture_in_a_process_of_its_own(call, tmp_path, monkeypatch):
    asked = []

    @contextlib.contextmanager
    def page(config, log, children):
        assert config.capture.is_file()  # the tap has begun it
        asked.append((config.capture, log))
        yield "http://127.0.0.1:1/token/"

    def run(service, announce):
        with service as port:
            announce(port)

    monkeypatch.setattr("splitleak.eval.live.up.page", page)
    monkeypatch.setattr("splitleak.wire.server.server.run_until_stopped", run)
    given = ("--upstream", "127.0.0.1:1", "--capture", tmp_path / "t", "--listen", "127.0.0.1:0", "--json")
    code, out, _ = call("tap", *given, "--watch")
    watching, listening = map(json.loads, out.splitlines())
    assert code == 0
    assert watching == {"event": "watching", "address": "http://127.0.0.1:1/token/"}
    assert listening["event"] == "listening"
    assert asked == [(tmp_path / "t", tmp_path / "t.watch.log")]
