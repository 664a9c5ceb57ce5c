import gc
import sys
import time

import numpy as np
import pytest
import torch

from splitleak.attacker.likeness import Apart
from splitleak.attacker.rebuilders import Rebuilder
from splitleak.attacker.watch.board import Cursor
from splitleak.attacker.watch.watcher import Watcher
from splitleak.errors import WireError
from splitleak.wire.protocol.paths import MODEL_INFER
from splitleak.wire.protocol.pb import open_inference_pb2 as pb


def test_a_request_is_shown_with_its_picture_and_the_answer_that_came_later(wire, watched, shown):
    watcher = watched()
    wire.ask("a-0")
    watcher.step()
    [sight] = shown(watcher.board)["sights"]
    assert (sight["id"], sight["shape"], sight["label"], sight["ms"]) == ("a-0", [1, 4, 8, 8], None, None)
    assert sight["heat"].startswith("data:image/png;base64,")
    assert sight["rebuilt"].startswith("data:image/png;base64,")
    wire.say("a-0")
    watcher.step()
    [sight] = shown(watcher.board)["sights"]
    assert sight["label"] == "dog"
    assert sight["confidence"] == pytest.approx(float(torch.tensor([0.0, 4, 0]).softmax(0)[1]))
    assert sight["ms"] > 0
    counts = shown(watcher.board)["counts"]
    assert (counts["requests"], counts["answers"], counts["drawn"], counts["undrawn"]) == (1, 1, 1, 0)


def test_probabilities_are_shown_as_they_are_and_outputs_without_names_by_number(wire, watched, shown):
    watcher = watched(classes=("one", "two"))
    wire.ask("a")
    wire.say("a", (0.5, 0.2, 0.3), output="probabilities")
    wire.ask("b", call=2)
    wire.say("b", call=2, refusal="expected tea")
    watcher.step()
    first, second = shown(watcher.board)["sights"]
    assert (first["label"], first["confidence"]) == ("class 0", 0.5)
    assert (second["label"], second["error"]) == (None, "expected tea")


@pytest.mark.parametrize("output", ["probabilities", "answer"])
@pytest.mark.parametrize("scores", [(0.9, 0.0, 0.0), (0.9, 0.1, 0.1)])
def test_what_a_policy_leaves_of_probabilities_is_shown_as_it_is(wire, watched, shown, scores, output):
    """The highest alone, or rounded ones, do not sum to 1: their softmax said 53 % where the answer said 90."""
    watcher = watched()
    wire.ask("a")
    wire.say("a", scores, output=output)
    watcher.step()
    [sight] = shown(watcher.board)["sights"]
    assert sight["confidence"] == pytest.approx(0.9)


def test_logits_as_small_as_probabilities_are_not_taken_for_such(wire, watched, shown):
    """What an output is called tells; of one that is called something else, its other answers do."""
    watcher = watched()
    small, softmax = (0.9, 0.0, 0.0), float(torch.tensor([0.9, 0, 0]).softmax(0)[0])
    for number, (output, scores) in enumerate([("logits", small), ("answer", (-3, 4, 0)), ("answer", small)]):
        wire.ask(f"a-{number}")
        wire.say(f"a-{number}", scores, output=output)
        watcher.step()
    first, _, last = (sight["confidence"] for sight in shown(watcher.board)["sights"])
    assert (first, last) == pytest.approx((softmax, softmax))


def test_a_picture_that_comes_again_is_found_and_one_that_is_new_is_not(wire, watched, shown):
    watcher = watched()
    first = wire.ask("first")
    for number in range(7):
        wire.ask(f"other-{number}")
    watcher.step()
    noise = wire.draw.normal(size=first.shape).astype(np.float32)
    wire.ask("again", first + np.float32(0.05) * noise)
    watcher.step()
    sights = {sight["id"]: sight for sight in shown(watcher.board)["sights"]}
    assert sights["again"]["seen"] == {"number": 1, "picture": sights["first"]["rebuilt"]}
    assert [sight["id"] for sight in sights.values() if sight["seen"]] == ["again"]
    assert shown(watcher.board)["counts"]["seen"] == 1


def test_where_public_pictures_tell_how_near_different_ones_come_that_decides(wire, watched, shown):
    known = {
        near: watched(rebuilder=Rebuilder("toy", (4, 8, 8), torch.sigmoid, apart=Apart(near, 0.1)))
        for near in (0.5, 1.5)
    }
    feature = wire.ask("first")
    wire.ask("again", feature + 1 / 16)  # 256 values: at a distance of 1
    for near, watcher in known.items():
        watcher.step()
        first, again = (sight["seen"] for sight in shown(watcher.board)["sights"])
        assert first is None
        assert (again is not None) == (near > 1)
        assert "199 in 200 public pictures" in shown(watcher.board)["about"]["again"]


def test_the_newest_come_first_and_what_there_is_no_time_for_is_counted(wire, watched, shown):
    watcher = watched(kept=20)
    for number in range(50):
        wire.ask(f"a-{number}")
    watcher.step()
    document = shown(watcher.board)
    assert [sight["number"] for sight in document["sights"]] == list(range(43, 51))
    assert (document["counts"]["requests"], document["counts"]["undrawn"]) == (50, 30)
    for _ in range(3):
        watcher.step()
    document = shown(watcher.board)
    assert [sight["number"] for sight in document["sights"]] == list(range(31, 51))
    assert document["counts"]["drawn"] + document["counts"]["undrawn"] == 50


def test_a_writer_that_is_faster_than_the_count_does_not_keep_it_from_looking(wire, watched, shown, monkeypatch):
    monkeypatch.setattr("splitleak.attacker.watch.watcher._COUNTING_S", -1.0)
    watcher = watched()
    for number in range(3):
        wire.ask(f"a-{number}")
    for number in range(3):
        watcher.step()
        document = shown(watcher.board)
        assert (document["counts"]["requests"], document["counts"]["drawn"]) == (number + 1, number + 1)


def test_a_fast_stream_is_looked_into_less_often_but_not_while_the_count_is_behind(wire, watched, shown, monkeypatch):
    watcher, pauses, drawn = watched(), [], []
    for count, since_s, most_s in ((9, 0.25, 1.0), (60, 0.25, 1.0), (9, 0.25, 1.0), (60, 0.0, -1.0)):
        monkeypatch.setattr("splitleak.attacker.watch.watcher._COUNTING_S", most_s)
        for place in range(count):
            wire.ask(f"r-{count}-{place}")
        watcher._stepped = time.monotonic() - since_s
        pauses.append(watcher.step())
        drawn.append(shown(watcher.board)["counts"]["drawn"])
    assert pauses == [0.25, 2.5, 0.25, 0.25]
    assert drawn == [8, 12, 20, 28]


def test_of_a_fast_stream_answers_are_read_from_those_of_the_shown_requests_on(wire, watched, shown, monkeypatch):
    watcher, read = watched(), []
    original = watcher._follower.read
    monkeypatch.setattr(watcher._follower, "read", lambda mark: (read.append(mark.head.direction), original(mark))[1])
    for number in range(180):
        wire.ask(f"r-{number}")
        if number >= 3:  # so many are on their way
            wire.say(f"r-{number - 3}")
        if number % 60 == 59:
            watcher.step()
    for number in range(177, 180):
        wire.say(f"r-{number}")
    watcher.step()
    drawn = shown(watcher.board)["sights"]
    assert [sight["id"] for sight in drawn if not sight["label"]] == []
    assert len(drawn) == read.count("request") == 24
    assert read.count("response") < 60  # of 180


def test_an_earlier_answer_is_not_taken_for_that_of_a_request_of_the_same_id(wire, watched, shown):
    watcher = watched()
    for label in (0, 2):
        wire.ask("same")
        watcher.step()
        wire.say("same", np.eye(3)[label])
        watcher.step()
        assert shown(watcher.board)["sights"][-1]["label"] == ("cat", "dog", "ship")[label]
    wire.ask("same")
    watcher.step()
    assert shown(watcher.board)["sights"][-1]["label"] is None


def labels(watcher, shown):
    return [sight["label"] for sight in shown(watcher.board)["sights"]]


@pytest.mark.parametrize("on_their_way", [1, 3])
def test_requests_without_ids_have_the_answers_of_their_turns(wire, watched, shown, on_their_way):
    """The newest had the oldest one's answer, and the others none."""
    watcher, said = watched(), ("cat", "dog", "ship", "dog")
    for place in range(len(said) + on_their_way - 1):
        if place < len(said):
            wire.ask("")
        if place >= on_their_way - 1:
            wire.say("", 5 * np.eye(3)[("cat", "dog", "ship").index(said[place - on_their_way + 1])])
    watcher.step()
    assert labels(watcher, shown) == list(said)


def test_where_messages_are_missing_requests_without_ids_have_nobodys_answer(wire, watched, shown):
    watcher = watched()
    watcher._follower.lost = 1
    wire.ask("")
    wire.ask("named")
    wire.say("", (4, 0, 0))
    wire.say("named", (0, 4, 0))
    watcher.step()
    assert labels(watcher, shown) == [None, "dog"]


def test_nothing_is_looked_into_while_nobody_watches(wire):
    watcher = Watcher(wire.path)
    with watcher.watching():
        wire.ask("a")
        deadline = time.monotonic() + 10
        while watcher.board.since(Cursor(), 1)[0]["counts"]["requests"] < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        counts = watcher.board.since(Cursor(), 1)[0]["counts"]
        assert (counts["requests"], counts["drawn"]) == (1, 0)
        with watcher.board.viewer():
            while watcher.board.since(Cursor(), 1)[0]["counts"]["drawn"] < 1 and time.monotonic() < deadline:
                time.sleep(0.01)
        assert watcher.board.since(Cursor(), 1)[0]["counts"]["drawn"] == 1
    assert watcher.board.closed


def test_the_truth_stands_beside_only_where_it_is_given(wire, watched, shown):
    watcher = watched(truth=lambda name: torch.zeros(1, 2, 2) if name == "a" else None)
    wire.ask("a")
    wire.ask("b")
    watcher.step()
    first, second = shown(watcher.board)["sights"]
    assert first["truth"].startswith("data:image/png;base64,")
    assert second["truth"] is None
    assert shown(watcher.board)["about"]["truth"] is True
    assert shown(watched().board)["about"]["truth"] is False


def test_whatever_crosses_the_wire_is_shown_as_what_it_is(wire, watched, shown):
    watcher = watched()
    wire.raw(b"\xff\xff no message")
    wire.raw(b"")
    wire.ask("vector", np.ones((2, 5), np.float32))
    wire.ask("probe-0123456789ab-7")
    wire.writer.write("/other.Service/Call", 3, "request", b"x")
    watcher.step()
    broken, empty, vector, own = shown(watcher.board)["sights"]
    assert broken["error"]
    assert "expected at least one input" in empty["error"]
    assert (vector["rebuilt"], vector["error"], vector["shape"]) == (None, "", [2, 5])
    assert (own["own"], vector["own"]) == (True, False)
    assert shown(watcher.board)["counts"]["requests"] == 4


def test_features_of_another_target_have_words_in_the_place_of_a_picture(wire, watched, shown):
    watcher = watched(rebuilder=Rebuilder("decoder", (4, 8, 8), lambda rows: rows[:, :1].sigmoid(), served="theirs"))
    wire.ask("same shape")
    wire.ask("other shape", np.ones((1, 2, 3), np.float32))
    watcher.step()
    same, other = shown(watcher.board)["sights"]
    assert same["doubt"] == "the decoder was trained on the features of theirs, and these are of toy"
    assert same["rebuilt"] is not None
    assert other["rebuilt"] is None
    assert other["doubt"] == (
        "no picture: the decoder takes features of 4 × 8 × 8, and these are of 2 × 3, so that it is another target's"
    )


@pytest.mark.parametrize(
    "scores", [np.float32(1), np.full((1, 3), np.nan), [[np.inf, np.inf, -np.inf]], np.ones((0, 3))]
)
def test_an_answer_of_any_shape_and_values_leaves_the_page_alive(scores, wire, watched, shown):
    watcher = watched()
    wire.ask("a")
    scores = np.asarray(scores, np.float32)
    said = pb.ModelInferResponse(id="a", raw_output_contents=[scores.tobytes()])
    said.outputs.add(name="logits", datatype="FP32", shape=scores.shape)
    wire.writer.write(MODEL_INFER, 1, "response", said.SerializeToString())
    watcher.step()
    [sight] = shown(watcher.board)["sights"]
    assert sight["ms"] > 0
    assert sight["confidence"] is None or 0 <= sight["confidence"] <= 1


def test_features_of_the_largest_values_are_not_taken_for_each_other(wire, watched, shown):
    watcher = watched(rebuilder=None)
    for number in range(12):
        feature = np.where(wire.draw.random((1, 4, 8, 8)) < 0.5, np.float32(3e38), np.float32(-3e38))
        wire.ask(f"a-{number}", feature)
    watcher.step()
    watcher.step()
    assert [sight["seen"] for sight in shown(watcher.board)["sights"]] == [None] * 12


def test_20000_requests_leave_memory_flat(wire, watched, packed):
    watcher = watched(rebuilder=None, kept=50)
    cursor = Cursor()

    def blocks_after(calls):
        """Blocks of memory after 1,000 requests of each call, of which 16 are looked into."""
        nonlocal cursor
        for call in calls:
            with wire.path.open("ab") as file:
                file.write(packed(f"a-{call}", call) * 1000)
            watcher.step()
            watcher.step()
            _, cursor = watcher.board.since(cursor, 60)
        gc.collect()
        return sys.getallocatedblocks()

    blocks_after(range(3))
    before = blocks_after(range(3, 6))
    assert blocks_after(range(6, 20)) - before < 1000  # of 14,000 requests
    assert watcher.board.since(cursor, 1)[0]["counts"]["requests"] == 20_000


def test_a_file_that_is_no_capture_is_refused(tmp_path):
    (tmp_path / "thesis").write_text("somebody's thesis")
    with pytest.raises(WireError, match="expected a capture"), Watcher(tmp_path / "thesis").watching():
        pass


def test_a_page_whose_watcher_fails_is_closed_and_the_log_says_why(wire, caplog):
    def broken(features):
        raise RuntimeError("expected tea")

    watcher = Watcher(wire.path, Rebuilder("broken", (4, 8, 8), broken))
    with watcher.watching(), watcher.board.viewer():
        wire.ask("a")
        deadline = time.monotonic() + 10
        while not watcher.board.closed and time.monotonic() < deadline:
            time.sleep(0.01)
        assert watcher.board.closed
    assert "expected tea" in caplog.text
