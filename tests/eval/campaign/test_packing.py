from splitleak.eval.campaign.packing import pack, unpack, unpack_into
from splitleak.eval.campaign.plan import Job
from splitleak.eval.campaign.store import Store


def job(name):
    return Job(name, "cell", name, 0, f"cells/{name}/score", (), 1.0, {})


def written(folder, each):
    store = Store(folder)
    for path in (store.path(each) / "record.json", store.log(each)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("said")


def files(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_what_a_job_wrote_is_the_same_unpacked(tmp_path):
    (tmp_path / "there").mkdir()
    written(tmp_path / "here", job("a"))
    written(tmp_path / "here", job("b"))
    folder = unpack(pack(tmp_path / "here", job("a")), tmp_path / "there")
    assert files(folder) == {"cells/a/score/record.json": "said", "logs/a.log": "said"}


def test_what_is_put_into_a_folder_replaces_an_unfinished_output_and_leaves_nothing_else(tmp_path):
    (tmp_path / "there" / "cells" / "a" / "attack").mkdir(parents=True)
    (tmp_path / "there" / "cells" / "a" / "attack" / "half").write_text("of a killed run")
    written(tmp_path / "here", job("a"))
    unpack_into(pack(tmp_path / "here", job("a")), job("a"), tmp_path / "there")
    assert files(tmp_path / "there") == files(tmp_path / "here")
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["cells", "logs"]
