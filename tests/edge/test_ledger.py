import json

import numpy as np
import pytest

from splitleak.edge.ledger import Entry, Ledger
from splitleak.wire.protocol.answer import Prediction


def prediction(name, logits, sent_bytes=100):
    return Prediction(
        output=np.array(logits, np.float32),
        queue_us=3,
        compute_us=4,
        request_id=name,
        encode_us=1,
        serialise_us=2,
        round_trip_us=12,
        sent_bytes=sent_bytes,
        payload_sha256="0" * 64,
    )


@pytest.fixture
def ledger():
    return Ledger(
        entries=(
            Entry.of(prediction("a", [[0, 2, 1]]), place=4, label=1),
            Entry.of(prediction("b", [[3, 2, 1]], sent_bytes=200), place=2, label=1),
            Entry.of(prediction("c", [[0, 0, 1]], sent_bytes=300), place=0),
        )
    )


def test_what_is_written_is_read_back(tmp_path, ledger):
    ledger.write(tmp_path / "ledger.json")
    assert Ledger.read(tmp_path / "ledger.json") == ledger


def test_a_ledger_from_before_anything_was_sent_twice_is_read(ledger):
    document = ledger.document()
    for entry in document["entries"]:
        assert entry.pop("sends") == 1
    assert Ledger.parse(document, source="test") == ledger


def test_an_entry_holds_the_predicted_class_and_no_logits(ledger):
    assert [entry.predicted for entry in ledger.entries] == [1, 0, 2]
    assert ledger.entries[0].network_us == 5
    assert "output" not in json.dumps(ledger.document())


def test_places_join_ids_with_images(ledger):
    assert ledger.places == {"a": 4, "b": 2, "c": 0}


def test_the_summary_counts_right_answers_among_labelled_images_only(ledger):
    assert ledger.summary() == {"images": 3, "bytes_per_image": 200.0, "accuracy": 0.5}
    assert Ledger(entries=ledger.entries[2:]).summary()["accuracy"] is None


def test_an_image_that_was_sent_often_counts_once():
    views = [Entry.of(prediction(f"s-0-{view}", [[0, 1]]), place=0, label=view) for view in range(2)]
    twice = Ledger(entries=tuple(views))
    assert twice.summary() == {"images": 1, "bytes_per_image": 100.0, "accuracy": 0.5}
    assert twice.places == {"s-0-0": 0, "s-0-1": 0}


def test_a_request_of_two_images_has_no_entry():
    with pytest.raises(ValueError, match="one image, got 2"):
        Entry.of(prediction("a", [[0, 1], [1, 0]]), place=0)


def test_an_id_used_twice_is_refused(ledger):
    document = ledger.document()
    document["entries"] += document["entries"][:1]
    with pytest.raises(ValueError, match="each request id once, got 4 entries with 3 ids"):
        Ledger.parse(document, source="test")


def test_a_ledger_of_another_version_is_refused(tmp_path, ledger):
    (tmp_path / "ledger.json").write_text(json.dumps({**ledger.document(), "version": 2}))
    with pytest.raises(ValueError, match="version"):
        Ledger.read(tmp_path / "ledger.json")


def test_a_ledger_is_its_owners_alone(tmp_path):
    path = tmp_path / "ledger.json"
    for _ in range(2):
        Ledger(entries=()).write(path)
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(0o644)
