"""The cores that a process may use are those that affinity and quotas leave."""

import os

import pytest

from splitleak import cores
from splitleak.cores import usable_cores


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Writes the files of control groups, below a machine of 64 cores."""

    def write(own, files):
        (tmp_path / "own").write_text(own)
        for name, content in files.items():
            path = tmp_path / "fs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    monkeypatch.setattr(cores, "_OWN_GROUP", tmp_path / "own")
    monkeypatch.setattr(cores, "_GROUPS", tmp_path / "fs")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    return write


V1 = "5:cpu,cpuacct:/docker/abc\n0::/"
QUOTA_OF_TWO = {"cpu,cpuacct/cpu.cfs_quota_us": "200000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {}, 64),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "1000 100000\n"}, 1),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, 3),
        ("0::/a/b\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "garbage"}, 64),
        (V1, QUOTA_OF_TWO, 2),
        (V1, {**QUOTA_OF_TWO, "cpu,cpuacct/cpu.cfs_quota_us": "-1\n"}, 64),
        (
            V1,
            {
                f"cpu,cpuacct/docker/abc/{name.removeprefix('cpu,cpuacct/')}": value
                for name, value in QUOTA_OF_TWO.items()
            },
            2,
        ),
    ],
)
def test_a_quota_is_seen(groups, own, files, expected):
    groups(own, files)
    assert usable_cores() == expected


def test_where_there_is_neither_affinity_nor_control_groups_the_machine_counts(groups, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    for count, expected in ((8, 8), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        assert usable_cores() == expected
