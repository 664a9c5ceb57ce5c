"""A campaign on several machines, which here are processes, gives the records of one run."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.bench.kill_campaign import results
from tests.bench.kill_ray import killed_run

CAMPAIGNS = Path(__file__).parents[2] / "eval" / "campaigns"
CAMPAIGN = """
name = "tiny"
seeds = [0]
training = { epochs = 1, batch_size = 64 }
split = { train = 128, test = 64, public = 40, victims = 8 }
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
SMALLEST = f"""
extends = "{CAMPAIGNS / "cem_small.toml"}"
name = "smallest"
seeds = [0]
training = {{ epochs = 1 }}
split = {{ train = 128, test = 64, public = 40, victims = 8 }}
[[datasets]]
name = "builtin"
[[models]]
name = "vgg11"
width = 0.125
[[attacks]]
name = "decoder"
settings = {{ epochs = 1, blocks = 0, channels = 8 }}
[[attacks]]
name = "gan"
settings = {{ epochs = 1, blocks = 0, channels = 8 }}
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("campaign") / "tiny.toml"
    path.write_text(CAMPAIGN)
    return path


@pytest.fixture(scope="module")
def smallest(tmp_path_factory):
    """The file of ``cem_small`` with all its methods and attacks, one seed, and the least of all else."""
    path = tmp_path_factory.mktemp("smallest") / "smallest.toml"
    path.write_text(SMALLEST)
    return path


@pytest.fixture(scope="module")
def campaign(run_command):
    """``campaign(command, ...)`` runs ``splitleak campaign``, and returns what it says."""

    def run(command, *options):
        made = run_command("campaign", command, *options, "--json")
        assert made.returncode == 0, made.stderr
        return json.loads(made.stdout)

    return run


@pytest.fixture(scope="module")
def alone(file, left_alone):
    """The results of a run on one machine."""
    return results(left_alone("campaign", "run", str(file), out=file.parent / "alone").out)


@pytest.mark.slow
def test_three_shards_and_a_merge_give_the_records_of_one_run(file, campaign, alone, tmp_path):
    folders = [tmp_path / f"shard-{number}" for number in (1, 2, 3)]
    with ThreadPoolExecutor(3) as pool:
        asked = [
            pool.submit(campaign, "run", file, "--out", folder, "--shard", f"{number}/3", "--workers", 1)
            for number, folder in enumerate(folders, 1)
        ]
        assert [shard.result()["done"] for shard in asked] == [5, 5, 5]  # a split, a target and three jobs on it
    merged = campaign("merge", tmp_path / "all", *folders)
    assert (merged["jobs"], merged["done"]) == (13, 13)
    assert len(alone) == 9  # a record, pictures and leakage of each target
    assert results(tmp_path / "all") == alone


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_two_nodes_of_ray_give_the_records_of_one_run_though_workers_and_nodes_are_killed(smallest, campaign, tmp_path):
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    campaign("run", smallest, "--out", tmp_path / "alone")
    with (tmp_path / "log").open("ab") as log:
        killed = killed_run([str(smallest)], tmp_path / "ray", log, kills=20, nodes=2)
    assert killed == (0, 20, 2), (tmp_path / "log").read_text()
    alone = results(tmp_path / "alone")
    assert len(alone) == 14 * (2 * 2 + 1)  # of each target two records, two galleries and its leakage
    assert results(tmp_path / "ray") == alone
