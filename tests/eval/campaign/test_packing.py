import io
import tarfile

import pytest
import torch

from splitleak.artifacts import save_tensors
from splitleak.eval.campaign.packing import pack, unpack, unpack_into
from splitleak.eval.campaign.plan import KINDS, Job
from splitleak.eval.campaign.store import Store

SETS = ("train.npz", "public.npz", "victims.npz", "test.npz", "splits.json")
WRITTEN = {  # of each kind: where its output is, and what is written, from the folder around it
    "split": ("images/a-s0-k/splits.json", [f"a-s0-k/{name}" for name in SETS]),
    "import": ("imports/k", ["k/artifact.json", "k/edge/network.onnx"]),
    "train": (
        "targets/k",
        ["k/artifact.json", "k/edge/weights.safetensors", "k/cloud/weights.safetensors", "k.config.json"],
    ),
    "purify": ("purifiers/k", ["k/purifier.json", "k/weights.safetensors"]),
    "prior": ("priors/k", ["k/prior.json", "k/generator.safetensors"]),
    "capture": ("captures/k", ["k/tap.capture", "k/ledger.json", "k/pairs.npz"]),
    "predict": ("predictions/k", ["k/shared-all.npz", "k/ledger.json", "k/service.json"]),
    "cell": ("cells/k/score", ["attack/attack.json", "attack.config.json", "score/record.json"]),
    "leakage": ("leakage/k.json", ["k.json", "k.config.json"]),
    "linkage": ("linkage/t-k.json", ["t-k.json"]),
    "latency": ("latency/k.json", ["k.json"]),
    "poison": ("images/patch-s0-k/splits.json", [f"patch-s0-k/{name}" for name in SETS]),
    "open": ("images/open-s0-k/splits.json", [f"open-s0-k/{name}" for name in SETS]),
    "besides": ("besides/training-time-k.json", ["training-time-k.json", "training-time-k.targets.json"]),
}


def job(name):
    return Job(name, "cell", name, 0, f"cells/{name}/score", (), 1.0, {})


def written(folder, each):
    store = Store(folder)
    for path in (store.path(each) / "record.json", store.log(each)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("said")


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_a_job_wrote_is_the_same_unpacked(tmp_path):
    (tmp_path / "there").mkdir()
    written(tmp_path / "here", job("a"))
    written(tmp_path / "here", job("b"))
    folder = unpack(pack(tmp_path / "here", job("a")), tmp_path / "there")
    assert files(folder) == {"cells/a/score/record.json": b"said", "logs/a.log": b"said"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("../a", tarfile.REGTYPE), ("/a", tarfile.REGTYPE), ("a", tarfile.SYMTYPE), ("a", tarfile.FIFOTYPE)],
)
def test_what_was_packed_by_a_stranger_is_refused(tmp_path, name, kind):
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc"
        archive.addfile(member)
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match=f"expected files and folders of a job in what was packed, got '{name}'"):
        unpack(held.getvalue(), tmp_path / "there")
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_every_kind_of_job_is_here():
    assert set(WRITTEN) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_a_job_of_any_kind_wrote_travels(tmp_path, kind):
    output, names = WRITTEN[kind]
    each = Job(f"{kind}-k", kind, "a", 0, output, (), 1.0, {})
    top = Store(tmp_path / "here").path(each).parent
    for name in names:
        path = (top.parent if "/splits.json" in output else top) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"said")
        if path.suffix == ".safetensors":
            save_tensors(path, {"weight": torch.ones(3)})
    (tmp_path / "there").mkdir()
    unpack_into(pack(tmp_path / "here", each), each, tmp_path / "there")
    assert files(tmp_path / "there") == files(tmp_path / "here")


def test_what_is_put_into_a_folder_replaces_an_unfinished_output_and_leaves_nothing_else(tmp_path):
    (tmp_path / "there" / "cells" / "a" / "attack").mkdir(parents=True)
    (tmp_path / "there" / "cells" / "a" / "attack" / "half").write_text("of a killed run")
    written(tmp_path / "here", job("a"))
    unpack_into(pack(tmp_path / "here", job("a")), job("a"), tmp_path / "there")
    assert files(tmp_path / "there") == files(tmp_path / "here")
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["cells", "logs"]


def test_a_pack_of_another_output_or_of_half_a_one_is_refused_and_nothing_is_put(tmp_path):
    split, other = (Job("split-k", "split", "a", 0, f"images/{name}/splits.json", (), 1.0, {}) for name in "ab")
    for folder, names in ((tmp_path / "here", SETS), (tmp_path / "half", SETS[3:])):
        (folder / "images" / "a").mkdir(parents=True)
        for name in names:
            (folder / "images" / "a" / name).write_text("said")
    (tmp_path / "there").mkdir()
    for folder, asked in ((tmp_path / "here", other), (tmp_path / "half", split)):
        with pytest.raises(FileNotFoundError, match=rf"expected {asked.output} in what was packed of split-k"):
            unpack_into(pack(folder, split), asked, tmp_path / "there")
        assert not list((tmp_path / "there").iterdir())
