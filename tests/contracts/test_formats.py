"""What `docs/formats.md` says of each format is what the code has: versions, marks, files and magic."""

import hashlib
import inspect
import json
import re
from pathlib import Path

import pytest
import torch

from splitleak.attacker import blind_tap, outputs, prior
from splitleak.datasets import splits
from splitleak.datasets.images import Dataset, Images
from splitleak.defenses import artifact
from splitleak.defenses.predictions import purifier
from splitleak.edge import ledger, sharing
from splitleak.eval.campaign import jobs
from splitleak.eval.campaign.config import CampaignConfig
from splitleak.eval.campaign.predictions import jobs as prediction_jobs
from splitleak.eval.record import schema, unproven
from splitleak.eval.report import report
from splitleak.eval.scan import output, scan
from splitleak.eval.study import votes
from splitleak.models import triton
from splitleak.wire.client.channel import ChannelConfig
from splitleak.wire.files import captures

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
PARTS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
PROMISED = {
    cells[0]: cells[1:]
    for line in PARTS["What every format promises"].splitlines()
    if line.startswith("| ") and len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 5
}
VERSIONS = {
    "Artifact": artifact.FORMAT,
    "Capture": captures.FORMAT_VERSION,
    "Blind capture": blind_tap._FORMAT["version"],
    "Ledger": ledger.Ledger.model_fields["version"].default,
    "Prior": prior.FORMAT,
    "Purifier": purifier.FORMAT,
    "Record": schema.VERSION,
    "Scan": scan.VERSION,
}
CLOSED = {
    "Artifact": artifact.HalfConfig,
    "Ledger": ledger.Ledger,
    "Prior": prior.PriorDocument,
    "Purifier": purifier._Saved,
    "Record": schema.VictimsRecord,
    "Study": votes.Key,
    "Settings": ChannelConfig,
    "Campaign file": CampaignConfig,
}
FOLDERS = {
    "Images": splits.SPLITS,
    "Artifact": artifact.ARTIFACT,
    "Shared predictions": sharing.SHARED,
    "Attack output": outputs.ATTACK,
    "Prior": prior.PRIOR,
    "Purifier": purifier.PURIFIER,
    "Record": schema.CELL,
    "Scan": output.SCAN,
    "Scores without provenance": unproven.UNPROVEN,
    "Campaign folder": jobs.CAPTURE,
    "Triton model": triton.MODEL,
}


def test_every_format_is_in_the_list_of_promises_and_has_a_part_of_its_own():
    assert set(PROMISED) - {"format", "---"} <= set(PARTS)
    assert set(VERSIONS) | set(CLOSED) <= set(PROMISED)
    assert set(PARTS) - set(PROMISED) == {"What every format promises"}


@pytest.mark.parametrize("name", [name for name in PROMISED if name not in ("format", "---")])
def test_the_version_of_a_format_is_the_codes(name):
    assert PROMISED[name][0] == ("ONNX" if name == "Network" else str(VERSIONS.get(name, "none")))
    if name in VERSIONS:
        assert f"ersion {VERSIONS[name]}" in PARTS[name]


@pytest.mark.parametrize("name", CLOSED)
def test_unknown_keys_are_refused_where_the_page_says_so(name):
    assert PROMISED[name][1].startswith("refused")
    with pytest.raises(ValueError, match="no_such_key: Extra inputs are not permitted"):
        CLOSED[name].parse({"no_such_key": 1}, source="x")


@pytest.mark.parametrize("name", FOLDERS)
def test_every_file_of_a_folder_is_named(name):
    named = re.findall(r"`([^`\n]+)`", PARTS[name]) + re.findall(r"[\w*<>./-]+", PARTS[name])
    for pattern in (FOLDERS[name].mark, *FOLDERS[name].others):
        plain = re.compile(re.escape(pattern).replace(r"\*", ".+"))
        assert any(plain.fullmatch(word) or word.startswith(f"{pattern}/") for word in named), pattern


@pytest.mark.slow
def test_every_kind_of_folder_is_looked_at():
    known = {*FOLDERS.values(), prediction_jobs.PREDICTIONS, report.REPORT}
    modules = (splits, artifact, sharing, outputs, prior, purifier, schema, jobs, prediction_jobs, report, triton)
    modules += (output, unproven)
    kinds = {value for module in modules for value in vars(module).values() if type(value).__name__ == "FolderKind"}
    assert kinds == known
    root = Path(__file__).parents[2]
    made = [path for path in root.rglob("*.py") if "= FolderKind(" in path.read_text() and "tests" not in path.parts]
    names = {Path(inspect.getfile(module)).resolve() for module in modules}
    assert {path.resolve() for path in made} == names


def test_magic_and_heads_are_those_of_the_code():
    assert repr(captures.HEADER[:8])[2:-1] in PARTS["Capture"]
    assert json.dumps(blind_tap._FORMAT) in PARTS["Blind capture"]
    for note in (captures.GAP, captures.CONTINUES):
        assert f"`{note}`" in PARTS["Capture"]


@pytest.mark.parametrize(
    ("name", "arrays"),
    [
        ("Images", "images labels classes"),
        ("Shared predictions", "ids scores m model"),
        ("Pairs", "features hashes prefix draws views queries"),
        ("Attack output", "ids images public"),
        ("Record", "places truth rebuilt"),
    ],
)
def test_the_arrays_of_npz_files_are_named(name, arrays):
    assert [array for array in arrays.split() if f"`{array}`" not in PARTS[name]] == []


def told(document):
    """A digest, as the page says it is made."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:12]


def test_hashes_and_digests_are_made_as_the_page_says(tmp_path):
    pixels = torch.arange(5 * 3 * 4 * 6).to(torch.uint8).reshape(5, 3, 4, 6)
    images = Images(pixels, torch.zeros(5, dtype=torch.int64), ("é",))
    hashes = [hashlib.sha256(b"(3, 4, 6)" + each.numpy().tobytes()).hexdigest()[:24] for each in pixels]
    assert images.hashes() == hashes
    assert ledger.images_digest(images) == told(hashes)
    assert splits.digest({"b": ["é"], "a": 1.5}) == told({"b": ["é"], "a": 1.5})
    made = splits.split(Dataset("five", images, None), splits.SplitConfig(public=1, victims=2, test=1))
    assert made.record["images"]["victims"]["digest"] == told(sorted(made.victims.hashes()))
    of = {}
    for half, files in {"edge": ("half.json", "network.onnx"), "cloud": ("half.json", "weights.safetensors")}.items():
        (tmp_path / half).mkdir()
        for name in files:
            (tmp_path / half / name).write_text(f"{half} {name}")
        of[half] = [hashlib.sha256(f"{half} {name}".encode()).hexdigest() for name in files]
    assert artifact.half_digest(tmp_path / "edge") == told(of["edge"])
    assert artifact.artifact_digest(tmp_path) == told(of["edge"] + of["cloud"])
