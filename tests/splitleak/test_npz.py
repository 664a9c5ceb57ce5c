import gc
import threading
import time
import zipfile

import numpy as np
import pytest
import torch

from splitleak import npz
from splitleak.attacker.outputs import Reconstructions
from splitleak.attacker.queries import Pairs
from splitleak.datasets.arrays import load_npz
from splitleak.datasets.plain import read_array
from splitleak.eval.record.scoring import PICTURES, load_pictures
from splitleak.npz import open_npz
from splitleak.wire.files.shared import SharedScores

PIXELS = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8)


def write_images(path):
    np.savez(path, images=PIXELS, labels=np.arange(2))


def write_pictures(path):
    np.savez_compressed(path, truth=PIXELS[:, None], rebuilt=PIXELS[:, None], places=np.arange(2))


READERS = {
    "images": ("images.npz", write_images, load_npz),
    "shared": ("shared-1.npz", SharedScores(("a", "b"), np.eye(2, dtype=np.float32), 1, "m").save, SharedScores.load),
    "pairs": ("pairs.npz", Pairs(torch.ones(1, 2, 3), ("h", "i"), "probe-0", 1).save, Pairs.load),
    "rebuilt": ("reconstructions.npz", Reconstructions(("0", "1"), torch.ones(2, 1, 4, 4)).save, Reconstructions.load),
    "pictures": (PICTURES, write_pictures, lambda path: load_pictures(path.parent)),
}


@pytest.fixture(params=READERS)
def written(request, tmp_path):
    """Each kind of .npz file that there is, and its reader."""
    name, write, read = READERS[request.param]
    write(tmp_path / name)
    return tmp_path / name, read


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def rezipped(path, contents, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)


def header(data, old, new):
    """An array's bytes with another header, of the same length."""
    place = data.index(old)
    line = data.index(b"\n", place)
    changed = data[:place] + new + data[place + len(old) : line]
    return changed[:line].ljust(line) + data[line:]


def flip(path):
    """Changes the last byte of the first array."""
    with zipfile.ZipFile(path) as archive:
        end = sorted(info.header_offset for info in archive.infolist())[1]
    data = bytearray(path.read_bytes())
    data[end - 1] ^= 0xFF
    path.write_bytes(data)


BROKEN = {
    "nothing": lambda path: path.write_bytes(b""),
    "no archive": lambda path: path.write_bytes(b"GIF89a" * 100),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "one array": lambda path: path.write_bytes(next(iter(members(path).values()))),
    "no array": lambda path: rezipped(path, {"readme.txt": b"none"}),
    "an array cut": lambda path: rezipped(path, {name: data[:-1] for name, data in members(path).items()}),
    "no header": lambda path: rezipped(path, {name: data[:9] for name, data in members(path).items()}),
    "a pickle": lambda path: rezipped(
        path, {name: header(data, b"'descr': '", b"'descr': '|O', 'x': '") for name, data in members(path).items()}
    ),
    "a header of code": lambda path: rezipped(
        path, {name: header(data, b"{'descr'", b"exit(3) #") for name, data in members(path).items()}
    ),
    "an array of a terabyte": lambda path: rezipped(
        path, {name: header(data, b"'shape': (", b"'shape': (1099511627776,") for name, data in members(path).items()}
    ),
    "a wrong byte": lambda path: flip(path),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_file_is_one_line_that_names_it(how, written):
    path, read = written
    read(path)
    BROKEN[how](path)
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as refused:
        read(path)
    assert str(refused.value).startswith(f"{path}: expected")


def test_a_file_that_is_not_there_or_a_folder_is_named(written):
    path, read = written
    path.unlink()
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match=r": expected .*, but there is no such file"):
            read(path)
        path.mkdir(exist_ok=True)


def test_an_array_that_is_missing_is_named_with_those_that_are_there(tmp_path):
    write_pictures(tmp_path / "a.npz")
    with (
        pytest.raises(ValueError, match=r"a\.npz: expected pictures, but it has no 'odd', only places, rebuilt, truth"),
        open_npz(tmp_path / "a.npz", "pictures") as file,
    ):
        file["odd"]


def test_an_array_that_unpacks_to_much_more_than_it_takes_is_refused_unread(written, monkeypatch):
    path, read = written
    rezipped(path, members(path) | {next(iter(members(path))): bytes(3 * 2**20)}, zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(npz, "_BOMB", (2**20, 100))
    with pytest.raises(ValueError, match="is to unpack to at most 100 times its bytes, not 3,145,728 from"):
        read(path)


def test_what_the_block_says_of_the_file_itself_is_kept(tmp_path):
    write_pictures(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=rf"\A{tmp_path / 'a.npz'}: too dark\Z"), open_npz(tmp_path / "a.npz"):
        raise ValueError(f"{tmp_path / 'a.npz'}: too dark")


class Litter:
    """Garbage in a cycle, which lets another thread run while it is collected, and leaves as much again."""

    dropped = threading.Event()

    def __init__(self):
        self.me = self

    def __del__(self):
        time.sleep(0)
        if not self.dropped.is_set():
            Litter()


def test_threads_that_read_at_once_all_read_what_is_there(tmp_path):
    write_images(tmp_path / "a.npz")
    np.save(tmp_path / "a.npy", PIXELS)
    failed = []

    def read(deep):
        if deep:
            return read(deep - 1)
        for _ in range(50):
            try:
                load_npz(tmp_path / "a.npz")
                read_array(tmp_path / "a.npy")
            except ValueError as error:
                failed.append(error)

    threads = [threading.Thread(target=read, args=(deep,)) for deep in range(4)]
    threshold = gc.get_threshold()
    Litter()
    gc.set_threshold(3)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.set_threshold(*threshold)
        Litter.dropped.set()
    assert not failed
