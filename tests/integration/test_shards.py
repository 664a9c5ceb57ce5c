"""A campaign in shards, each a process in a folder of its own, gives the records of one run when they are joined."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from splitleak.config import read_document
from splitleak.eval.campaign.merging import stable

CAMPAIGN = """
name = "tiny"
seeds = [0]
training = { epochs = 1, batch_size = 64 }
[split]
train = 128
test = 64
public = 40
victims = 8
[[datasets]]
name = "builtin"
channels = 1
size = 16
[[models]]
name = "cnn"
architecture = "cnn"
[[methods]]
name = "none"
[[methods]]
name = "noise"
defenses = [{ name = "gaussian-noise", sigma = 0.1 }]
[[methods]]
name = "few"
defenses = [{ name = "bottleneck" }]
[[attacks]]
name = "nearest"
attack = "nearest"
"""


def results(folder):
    """What is in the records and measures of a campaign, by their places."""
    paths = (*folder.glob("cells/*/score/record.json"), *folder.glob("leakage/*.json"))
    return {str(path.relative_to(folder)): stable(read_document(path)) for path in paths}


@pytest.mark.slow
def test_three_shards_and_a_merge_give_the_records_of_one_run(run_command, tmp_path):
    (tmp_path / "tiny.toml").write_text(CAMPAIGN)

    def campaign(command, *options):
        made = run_command("campaign", command, *options, "--json")
        assert made.returncode == 0, made.stderr
        return json.loads(made.stdout)

    def run(name, *options):
        return campaign("run", tmp_path / "tiny.toml", "--out", tmp_path / name, "--workers", 1, *options)

    with ThreadPoolExecutor(4) as pool:
        shards = [pool.submit(run, f"shard-{k}", "--shard", f"{k}/3") for k in (1, 2, 3)]
        whole = pool.submit(run, "whole")
        assert [shard.result()["done"] for shard in shards] == [5, 5, 5]  # a split, a target and three jobs on it
        assert whole.result()["done"] == 13
    merged = campaign("merge", tmp_path / "all", *(tmp_path / f"shard-{k}" for k in (1, 2, 3)))
    assert (merged["jobs"], merged["done"]) == (13, 13)
    found = results(tmp_path / "all")
    assert len(found) == 6
    assert found == results(tmp_path / "whole")
