from splitleak.attacker.watch.board import Board, Cursor
from splitleak.wire.files.captures import Head

SECOND = 10**9


def head(second, size=100, direction="request"):
    return Head(second * SECOND, 1, direction, "/toy", size)


def sight(number, **told):
    given = {"number": number, "seen": None, "confidence": None, "time_ns": 1000 * SECOND}
    return {**given, **told}


def test_a_browser_is_sent_what_is_new_once_the_newest_first_and_told_how_many_it_missed():
    board = Board(kept=10, capture="c")
    for number in range(1, 6):
        board.show(sight(number))
    document, cursor = board.since(Cursor(), 3)
    assert [each["number"] for each in document["sights"]] == [3, 4, 5]
    assert document["skipped"] == 0  # it was not there yet
    assert not board.changed(cursor)
    for number in range(6, 26):
        board.show(sight(number))
    assert board.changed(cursor)
    document, cursor = board.since(cursor, 3)
    assert ([each["number"] for each in document["sights"]], document["skipped"]) == ([23, 24, 25], 17)
    assert board.since(cursor, 3)[0]["sights"] == []
    assert document["counts"]["drawn"] == 25
    assert document["about"] == {"capture": "c"}


def test_what_becomes_known_of_a_request_is_sent_again_and_of_a_forgotten_one_is_not():
    board = Board(kept=2)
    for number in (1, 2, 3):
        board.show(sight(number))
    _, cursor = board.since(Cursor(), 9)
    board.amend(1, {"confidence": 0.5})
    assert board.since(cursor, 9)[0]["sights"] == []
    board.amend(3, {"confidence": 0.75})
    document, _ = board.since(cursor, 9)
    assert document["sights"] == [sight(3, confidence=0.75)]
    assert document["skipped"] == 0
    assert document["seconds"] == [[1000, 0, 0, 0.75]]


def test_messages_are_counted_by_the_second_for_a_minute():
    board = Board()
    board.count([*map(head, (100, 100, 130, 161)), head(161, 20, "response")])
    board.count([head(90)])  # of a clock that was set back
    document, _ = board.since(Cursor(), 1)
    assert document["seconds"] == [[130, 1, 100, 0], [161, 1, 120, 0]]
    counts = document["counts"]
    assert (counts["requests"], counts["answers"], counts["bytes"]) == (5, 1, 520)


def test_who_watches_is_counted_while_he_does():
    board = Board()
    with board.viewer():
        assert board.viewers == 1
    assert board.viewers == 0
