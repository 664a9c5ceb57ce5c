"""Damaged files before each reader of ours: ``python -m tests.bench.fuzz_files --files 10000 [--reader onnx]``.

A reader returns a value or raises our one error, a ValueError of one line that names the file; it takes bounded memory
and bounded time. Ends with status 1, and says why, if one does not.
"""

import argparse
import io
import json
import logging
import random
import resource
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from splitleak.artifacts import write_json
from splitleak.attacker.arrays import read_features, read_pairs
from splitleak.attacker.blind_tap import sightings
from splitleak.attacker.outputs import Reconstructions
from splitleak.attacker.prior import Prior, PriorDocument
from splitleak.attacker.queries import Pairs
from splitleak.config import read_document, read_table
from splitleak.datasets.files import load_file
from splitleak.datasets.images import Dataset, Images
from splitleak.datasets.splits import SplitConfig, Splits, split
from splitleak.datasets.torchvision import load_torchvision
from splitleak.edge.ledger import Ledger
from splitleak.eval.campaign.kinds import plan_campaign
from splitleak.eval.record.inputs import Attacked
from splitleak.eval.record.schema import load_lines, load_record
from splitleak.graphs.importing import NetworkConfig, read_network
from splitleak.models.export import export_onnx
from splitleak.models.generator import Generator, GeneratorConfig
from splitleak.wire.files import captures
from splitleak.wire.files.captures import CaptureWriter
from splitleak.wire.files.repair import check
from splitleak.wire.files.shared import SharedScores
from tests.bench.fuzz_folders import EVAL, FOLDERS, Prepared

FORMATS = ("png", "jpg", "gif", "tif", "bmp", "webp", "ppm")
IMAGES = ("npz", "stored npz", "zip", "mnist", "splits", *FORMATS)
MOST_GROWTH = 400 * 2**20  # bytes, of the process, over all files of a reader
MOST_S = 10.0  # a file


def prepared(reader: str, folder: Path) -> Prepared:
    """A valid input for ``reader`` in ``folder``."""
    return OTHERS[reader](folder) if reader in OTHERS else images(reader, folder)


def images(reader: str, folder: Path) -> Prepared:
    """A file of images."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 9, 3), dtype=np.uint8)
    path = folder / f"data.{reader.split()[-1]}"
    if reader in ("npz", "stored npz"):
        save = np.savez_compressed if reader == "npz" else np.savez
        save(path, images=pixels, labels=np.arange(6) % 2, classes=np.array(["cat", "dog"]))
    elif reader == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for place, each in enumerate(pixels):
                archive.writestr(f"{'cat' if place % 2 else 'dog'}/{place}.png", _encoded(each, "png"))
    elif reader == "mnist":
        path = folder / "MNIST" / "raw" / "train-images-idx3-ubyte"
        path.parent.mkdir(parents=True)
        for part in ("train", "t10k"):
            start = path.parent / part
            images = struct.pack(">4i", 2051, 4, 28, 28) + bytes(4 * 28 * 28)
            Path(f"{start}-images-idx3-ubyte").write_bytes(images)
            Path(f"{start}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, 4) + bytes([0, 1, 2, 3]))
        return path, lambda: load_torchvision("mnist", folder, download=False)
    elif reader == "splits":
        labels, names = torch.arange(40) % 2, ("cat", "dog")
        images = Images(torch.arange(40, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 8, 8), labels, names)
        split(Dataset("d", images, None), SplitConfig(public=5, victims=5)).save(folder)
        return folder / "splits.json", lambda: Splits.load(folder)
    else:
        path = folder / "set" / "cat" / f"0.{reader}"
        for place, name in ((path, reader), (folder / "set" / "dog" / "1.png", "png")):
            place.parent.mkdir(parents=True)
            place.write_bytes(_encoded(pixels[0], name))
        return path, lambda: load_file(folder / "set", size=8)
    return path, lambda: load_file(path)


def toml(folder: Path) -> Prepared:
    """A file of settings."""
    path = folder / "data.toml"
    path.write_text('name = "x"\n[training]\nepochs = 3\nrates = [0.1, 2e-3]\n')
    return path, lambda: read_document(path)


def campaign(folder: Path) -> Prepared:
    """The file of a campaign, and the jobs that it asks for."""
    path = folder / "campaign.toml"
    path.write_bytes((EVAL / "campaigns" / "demo.toml").read_bytes())
    return path, lambda: plan_campaign(read_table(path), str(path))


def record(folder: Path) -> Prepared:
    """What a judge wrote."""
    lines = EVAL / "results" / "cem_small" / "records.jsonl"
    path = folder / "record.json"
    path.write_text(json.dumps(json.loads(lines.read_text().splitlines()[0]), indent=2))
    return path, lambda: load_record(folder)


def records(folder: Path) -> Prepared:
    """Several of them, in lines."""
    path = folder / "records.jsonl"
    lines = EVAL / "results" / "cem_small" / "records.jsonl"
    path.write_text("\n".join(lines.read_text().splitlines()[:3]))
    return path, lambda: load_lines(path)


def ledger(folder: Path) -> Prepared:
    """The edge's record of a stream."""
    costs = dict.fromkeys(("encode_us", "serialise_us", "network_us", "queue_us", "compute_us", "total_us"), 5)
    about = {"request_id": "s-0", "place": 0, "label": 1, "predicted": 1, "sent_bytes": 9, "payload_sha256": "0" * 64}
    write_json(folder / "ledger.json", {"version": 1, "entries": [about | costs], "images": "0" * 12})
    return folder / "ledger.json", lambda: Ledger.read(folder / "ledger.json")


def attack(folder: Path) -> Prepared:
    """What an attack says of itself."""
    about = {"attack": "decoder", "config": {"epochs": 2}, "seed": 0, "queries": 3, "knowledge": ["public", "query"]}
    about |= {"public_hashes": ["0" * 24, "1" * 24], "models": {"edge": "0" * 12}, "findings": {}, "provenance": {}}
    write_json(folder / "attack.json", about)

    def read() -> object:
        found = Attacked.read(folder)
        return found.threat_model(sees="features"), found.models

    return folder / "attack.json", read


def rebuilt(folder: Path) -> Prepared:
    """An attack's reconstructions."""
    path = folder / "reconstructions.npz"
    Reconstructions(("a", "b"), torch.rand(2, 1, 8, 8), "0" * 12).save(path)
    return path, lambda: Reconstructions.load(path)


def pairs(folder: Path) -> Prepared:
    """Recorded queries."""
    path = folder / "pairs.npz"
    Pairs(torch.rand(1, 3, 4), ("a", "b", "c"), "probe-0", 1).save(path)
    return path, lambda: Pairs.load(path)


def arrays(folder: Path) -> Prepared:
    """Features and images of any source."""
    path = folder / "arrays.npz"
    np.savez(path, features=np.random.default_rng(0).random((3, 4), np.float32), images=np.zeros((3, 1, 4, 4), "u1"))
    return path, lambda: read_pairs(path)


def array(folder: Path) -> Prepared:
    """One array."""
    path = folder / "x.npy"
    np.save(path, np.random.default_rng(0).random((3, 4), np.float32))
    return path, lambda: read_features(path)


def shared(folder: Path) -> Prepared:
    """Shared scores."""
    path = folder / "shared-all.npz"
    SharedScores(("a", "b"), np.eye(2, dtype=np.float32), None, "m").save(path)
    return path, lambda: SharedScores.load(path)


def weights(folder: Path) -> Prepared:
    """A prior's generator, ours."""
    config = GeneratorConfig(channels=1, size=8, latent=4, width=2)
    Prior(PriorDocument(format=1, generator=config), Generator(config).eval(), None).save(folder / "prior")
    return folder / "prior" / "generator.safetensors", lambda: Prior.load(folder / "prior", torch.device("cpu"))


def onnx(folder: Path) -> Prepared:
    """A prior's generator, a stranger's."""
    config = GeneratorConfig(channels=1, size=8, latent=4, width=2)
    write_json(folder / "prior.json", {"format": 1, "generator": config.document()})
    export_onnx(Generator(config).eval(), (4,), folder / "generator.onnx")
    return folder / "generator.onnx", lambda: Prior.load(folder, torch.device("cpu"))


def network(folder: Path) -> Prepared:
    """A network of a stranger's, to be cut."""
    path = folder / "network.onnx"
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))
    export_onnx(module.eval(), (1, 8, 8), path)
    return path, lambda: read_network(path, NetworkConfig()).cuts()


def capture(folder: Path) -> Prepared:
    """What a tap saw."""
    path = folder / "tap.capture"
    with CaptureWriter(path) as writer:
        for call in range(3):
            writer.write("/a/b", call, "request", bytes(range(60)))
    return path, lambda: (check(path), list(captures.read(path)))


def sizes(folder: Path) -> Prepared:
    """What a blind tap saw."""
    path = folder / "sizes.jsonl"
    seen = [{"time_ns": 1, "connection": 2, "direction": "request", "size": 3}] * 3
    path.write_text("".join(json.dumps(line) + "\n" for line in ({"format": "splitleak-sizes", "version": 1}, *seen)))
    return path, lambda: list(sightings(path))


OTHERS: dict[str, Callable[[Path], Prepared]] = {
    made.__name__: made
    for made in (
        onnx,
        network,
        weights,
        toml,
        campaign,
        record,
        records,
        ledger,
        attack,
        rebuilt,
        pairs,
        arrays,
        array,
        shared,
        capture,
        sizes,
    )
} | FOLDERS
READERS = (*IMAGES, *OTHERS)
ODD = (None, True, 0, -1, 2**63, 1e308, 0.5, "", "x", "../../x", "/x", "a\n\x1b[31m", [], [[]], {}, {"a": 1})  # as JSON


def damaged(data: bytes, draw: random.Random) -> bytes:
    """``data`` with up to three places cut, doubled, overwritten or filled in; of JSON, half the time its values."""
    if data[:1] == b"{" and draw.random() < 0.5:
        try:
            return json.dumps(altered(json.loads(data), draw)).encode()
        except ValueError:  # lines of JSON
            pass
    out = bytearray(data)
    for _ in range(draw.randint(1, 3)):
        at, long = draw.randrange(len(out) + 1), draw.choice((1, 1, 2, 4, 4, 64))
        kind = draw.randrange(7)
        if kind == 0 and out:
            out[at % len(out)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            out[at : at + long] = draw.randbytes(long)
        elif kind == 2:
            out[at : at + long] = draw.choice((b"\x00", b"\xff", b"\x7f")) * long
        elif kind == 3:
            del out[at : at + long]
        elif kind == 4:
            del out[at:]
        elif kind == 5:
            out[at:at] = out[at : at + long]
        else:
            out[at : at + 4] = struct.pack(draw.choice(("<I", ">I")), draw.choice((0, 1, 2**16, 2**31 - 1, 2**32 - 1)))
    return bytes(out)


def altered(document: Any, draw: random.Random) -> Any:
    """``document`` with one of its values replaced, renamed or left out, at any depth."""
    if not isinstance(document, (dict, list)) or not document or draw.random() < 0.2:
        return draw.choice(ODD)
    if isinstance(document, list):
        place = draw.randrange(len(document))
        changed = [altered(document[place], draw)] * draw.randrange(3)
        return [*document[:place], *changed, *document[place + 1 :]]
    key = draw.choice(list(document))
    kind = draw.randrange(6)
    others = {name: value for name, value in document.items() if name != key}
    return others if kind == 0 else {**others, "other" if kind == 1 else key: altered(document[key], draw)}


def faults(reader: str, count: int, seed: int, folder: Path) -> Iterator[str]:
    """What ``reader`` does that it must not, over ``count`` damaged files."""
    path, read = prepared(reader, folder)
    valid, draw = path.read_bytes(), random.Random(f"{reader} {seed}")
    read()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        path.write_bytes(damaged(valid, draw))
        began = time.monotonic()
        try:
            read()
        except (ValueError, FileNotFoundError) as error:
            if str(folder) not in str(error) or "\n" in str(error):
                yield f"{reader}, file {number}: expected one line that names the file, got {str(error)!r:.200}"
        except Exception as error:  # the very thing that is looked for
            yield f"{reader}, file {number}: expected a ValueError, got {error!r:.200}"
        if time.monotonic() - began > MOST_S:
            yield f"{reader}, file {number}: expected an answer in {MOST_S} s, got one after {time.monotonic() - began}"
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if growth > MOST_GROWTH:
        yield f"{reader}: expected at most {MOST_GROWTH:,} bytes more memory, got {growth:,}"


def _encoded(pixels: np.ndarray, suffix: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, Image.registered_extensions()[f".{suffix}"])
    return file.getvalue()


def main() -> int:
    """Damages files for each reader; prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000, help="for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", choices=READERS, action="append", help="only this one; repeatable")
    asked = parser.parse_args()
    logging.disable(logging.ERROR)  # what readers say of what they pass over
    found = {}
    for reader in asked.reader or READERS:
        with tempfile.TemporaryDirectory() as folder:
            found[reader] = list(faults(reader, asked.files, asked.seed, Path(folder)))
        print(json.dumps({"reader": reader, "files": asked.files, "faults": found[reader][:10]}), flush=True)  # noqa: T201
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
