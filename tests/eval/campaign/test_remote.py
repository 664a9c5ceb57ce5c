import json
import sys

import fsspec
import pytest

from splitleak.eval.campaign.plan import Job
from splitleak.eval.campaign.remote import RemoteStore
from splitleak.eval.campaign.store import Store


def job(name, output=None):
    return Job(name, "cell", name, 0, output or f"cells/{name}/score", (), 1.0, {})


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """The URL of a bucket of a server of S3 on loopback."""
    pytest.importorskip("s3fs", reason="the extra 's3' is not installed")
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    about = {"endpoint_url": f"http://{host}:{port}", "key": "key", "secret": "secret"}
    monkeypatch.setitem(fsspec.config.conf, "s3", {**about, "skip_instance_cache": True})
    fsspec.filesystem("s3").makedirs("bucket", exist_ok=True)
    yield f"s3://bucket/{tmp_path.name}"
    server.stop()


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.filterwarnings("ignore"))])
def url(request, tmp_path):
    return f"file://{tmp_path}/put/below" if request.param == "file" else request.getfixturevalue("bucket")


class Machine:
    """One with a folder of its own, and what it did itself."""

    def __init__(self, url, folder, threads=1):
        folder.mkdir(exist_ok=True)
        self.store, self.did = Store(folder), []
        self.remote = RemoteStore(url, self.store, threads)
        self.work = self.remote.around(self.do)

    def do(self, each):
        self.did.append(each.id)
        self.write(each)
        return {"MSE": "0.5"}

    def write(self, each, text="said"):
        for path in (self.store.path(each) / "record.json", self.store.log(each)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def record(self, each):
        return (self.store.path(each) / "record.json").read_text()


@pytest.fixture
def machine(url, tmp_path):
    return lambda name, threads=1: Machine(url, tmp_path / name, threads)


def test_what_one_machine_has_done_another_fetches(machine):
    one, two = machine("one"), machine("two")
    assert one.work(job("a")) == {"MSE": "0.5"}
    assert two.work(job("a")) == {"from": "store"}
    assert two.work(job("b")) == {"MSE": "0.5"}
    assert (one.did, two.did) == (["a"], ["b"])
    assert two.record(job("a")) == "said"
    assert two.store.log(job("a")).read_text() == "said"


def test_what_an_earlier_run_has_done_is_put_once(machine):
    one, two = machine("one"), machine("two")
    one.write(job("a"), "first")
    one.remote.put_missing([job("a"), job("b")])
    one.write(job("a"), "second")
    one.remote.put_missing([job("a"), job("b")])
    assert two.remote.fetch(job("a"))
    assert two.record(job("a")) == "first"
    assert not two.remote.fetch(job("b"))


def test_results_of_another_number_of_threads_are_other_results(machine):
    machine("one").work(job("a"))
    assert not machine("two", threads=2).remote.fetch(job("a"))


def test_an_output_that_lies_elsewhere_is_not_put(machine, tmp_path):
    one = machine("one")
    one.remote.put(job("a", output=str(tmp_path / "elsewhere")))
    assert not machine("two").remote.fetch(job("a"))


@pytest.fixture
def put(tmp_path):
    """``put(...)``: what is in the store, by name, with what is given in place of some of it; None: nothing."""
    url = f"file://{tmp_path}/put"
    machine = Machine(url, tmp_path / "one")
    machine.work(job("a"))
    mark, packed = sorted((tmp_path / "put" / "threads-1").iterdir(), key=lambda path: path.suffix)

    def change(**given):
        for path, content in ((mark, given.get("mark", b"")), (packed, given.get("packed", b""))):
            if content is None:
                path.unlink()
            elif content:
                path.write_bytes(content)
        return Machine(url, tmp_path / "two")

    change.mark, change.packed = mark.read_bytes(), packed.read_bytes()
    return change


def test_what_was_put_by_halves_is_not_there_and_is_done_again(put):
    for halves in (
        {"mark": None},  # a writer that died before it marked what it had put
        {"mark": put.mark[: len(put.mark) // 2]},
        {"mark": put.mark, "packed": put.packed[: len(put.packed) // 2]},
        {"mark": put.mark, "packed": None},
    ):
        two = put(**halves)
        assert not two.remote.fetch(job("a"))
        assert not two.store.is_done(job("a"))
    assert two.work(job("a")) == {"MSE": "0.5"}
    assert two.remote.fetch(job("a"))


@pytest.mark.parametrize("mark", [b"{}", b"[]", b"3", b'{"sha256": 3}', pytest.param(b"[" * 100_000, id="nested")])
def test_a_mark_that_is_none_of_ours_says_nothing(put, mark):
    two = put(mark=mark)
    assert not two.remote.fetch(job("a"))
    assert two.work(job("a")) == {"MSE": "0.5"}
    assert two.remote.fetch(job("a"))


def test_a_cell_that_was_judged_without_a_measure_that_is_asked_for_is_not_there(put, monkeypatch):
    two = put()
    assert two.remote.fetch(job("a"))
    monkeypatch.setattr(Store, "is_done", lambda store, each: False)
    assert not two.remote.fetch(job("a"))


def test_a_job_that_another_campaign_calls_otherwise_is_done_again(put):
    two = put()
    assert not two.remote.fetch(job("a", output="cells/b/score"))
    assert two.work(job("a", output="cells/b/score")) == {"MSE": "0.5"}
    assert two.did == ["a"]


def test_a_mark_names_what_it_marks_by_its_digest(put):
    said = json.loads(put.mark)
    assert list(said) == ["sha256"]
    assert len(said["sha256"]) == 64


def test_a_url_that_cannot_be_reached_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="carrier"):
        RemoteStore("carrier-pigeon://loft", Store(tmp_path), 1)
    monkeypatch.setitem(sys.modules, "paramiko", None)
    with pytest.raises(ValueError, match=r"expected a URL that can be reached, got ssh://loft: .*paramiko"):
        RemoteStore("ssh://loft", Store(tmp_path), 1)


@pytest.mark.parametrize("url", ["s3:/bucket/below", "s3:bucket", "S3:/bucket"])
def test_a_url_without_its_second_slash_is_no_folder_of_that_name(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"expected a URL such as s3://bucket/folder, or a folder, got {url}"):
        RemoteStore(url, Store(tmp_path / "folder"), 1)
    assert not list(tmp_path.iterdir())
    for folder in (f"{tmp_path}/a", f"file:{tmp_path}/b"):
        assert Machine(folder, tmp_path / "folder").work(job("a")) == {"MSE": "0.5"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "folder"]


def test_what_is_done_in_an_outage_of_the_store_is_done_and_put_by_the_next_run(tmp_path, monkeypatch):
    url = f"file://{tmp_path}/put"
    one, two = Machine(url, tmp_path / "one"), Machine(url, tmp_path / "two")

    def fails(*_, **__):
        raise ConnectionError("no route\nto host")

    with monkeypatch.context() as outage:
        for way in ("cat_file", "pipe_file"):
            outage.setattr(type(one.remote._files), way, fails)
        assert one.work(job("a")) == {"MSE": "0.5", "not put": "no route to host"}
    assert one.store.is_done(job("a"))
    assert not two.remote.fetch(job("a"))
    one.remote.put_missing([job("a")])
    assert two.remote.fetch(job("a"))
