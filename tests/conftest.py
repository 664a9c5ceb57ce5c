import contextlib
import gc
import os
import random
import shutil
import subprocess
import tempfile
import time
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import settings
from typer.testing import CliRunner

from splitleak.attacker.base import Run
from splitleak.attacker.prior import GAN, PriorConfig
from splitleak.cli import app
from splitleak.cores import usable_cores
from splitleak.datasets.splits import Splits
from splitleak.eval.campaign.processes import PRELOADED
from splitleak.outputs import locked
from splitleak.testing import material
from splitleak.training.fit import epochs
from splitleak.warm_start import Starter
from tests.bench.kill_campaign import killed_run

settings.register_profile("suite", deadline=None)  # how long an example takes is up to what else the machine does
settings.load_profile("suite")
torch.set_num_threads(1)  # of each worker, and for the examples too, which no fixture of this folder reaches
os.fsync = lambda descriptor: None  # no test cuts the power, and the suite would wait for a minute
gc.disable()  # until all is collected: modules and cases are no garbage
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # child processes share the cores: threads that wait do not spin
os.environ.setdefault("OMP_NUM_THREADS", "1")  # as campaigns of one thread set it: all children come of one fork server


def pytest_ignore_collect(collection_path):
    """Examples are looked for in the product alone: what is no test here is a script that a test starts."""
    return True if collection_path.suffix == ".py" and not collection_path.name.startswith("test_") else None


def pytest_collection_modifyitems(items):
    """Files with slow cases come first, so that no worker is left with one when the others are done."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)  # before its fixtures
def pytest_runtest_setup(item):
    """Global streams begin anew in each case: else what has no seed is another network as workers share out files."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)


def pytest_xdist_auto_num_workers():
    """One more than there are cores: some tests wait, for processes of their own or for time to pass."""
    return usable_cores() + 1


class Page(HTMLParser):
    """All that a page loads, where its links lead, the tags it has, and its text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.loaded, self.linked, self.text = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        found = [value for name, value in attrs if name in ("src", "href", "data", "srcset", "action")]
        (self.linked if tag == "a" else self.loaded).extend(found)

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def parsed():
    """``parsed(html)``: a page taken apart."""
    return Page


@pytest.fixture(scope="session")
def run_command():
    """``run_command("list", ...)`` runs a command in a process of its own, started warm, as `subprocess.run` would."""

    def run(*arguments, folder=".", environment=os.environ):
        with tempfile.TemporaryFile() as errors:
            with contextlib.chdir(folder):
                process = Starter("splitleak", PRELOADED, environment).start(list(map(str, arguments)), errors)
            with process.stdin, process.stdout as output:
                said = output.read().decode()
            code = process.wait()
            errors.seek(0)
            return subprocess.CompletedProcess(arguments, code, said, errors.read().decode())

    return run


@pytest.fixture
def undrawn(monkeypatch):
    """Plots of reports are empty files: drawing them takes most of a report's time."""
    from splitleak.eval.report.figures.drawing import Plot, file_name

    def plot(name, alt, draw, out):
        out.mkdir(parents=True, exist_ok=True)
        for suffix in ("svg", "pdf", "png"):
            (out / f"{file_name(name)}.{suffix}").write_bytes(b"")
        return Plot(name, alt, "<svg/>", "<svg/>", b"")

    for module in ("curves", "frontier"):
        monkeypatch.setattr(f"splitleak.eval.report.figures.{module}.draw_plot", plot)


@pytest.fixture(scope="session")
def start_command():
    """``with start_command("list", ..., errors=file) as process:`` starts one likewise, and waits for it at the end."""

    @contextlib.contextmanager
    def start(*arguments, errors):
        process = Starter("splitleak", PRELOADED, os.environ).start(list(map(str, arguments)), errors)
        with process.stdin, process.stdout:
            yield process
            process.wait()

    return start


@pytest.fixture(scope="session")
def kills():
    """How often the runs are killed that are to end as those left alone do; few, for each takes seconds to go on."""
    return int(os.environ.get("SPLITLEAK_KILLS", "2"))


class Done(NamedTuple):
    given: tuple[str, ...]
    out: Path
    said: str
    took: float


@pytest.fixture(scope="session")
def left_alone():
    """``left_alone("audit", ..., out=folder)`` runs a command here: what was given and said, and how long it took."""

    def run(*given, out):
        began = time.monotonic()
        made = CliRunner().invoke(app, [*given, "--out", str(out)])
        assert made.exit_code == 0, made.output
        return Done(given, out, made.stdout, time.monotonic() - began)

    return run


@pytest.fixture(scope="session")
def killed_again(start_command, kills):
    """``killed_again(done, out, seed)`` runs to ``out`` what was left alone, and kills it at moments of that seed."""

    def run(done, out, seed):
        log, most_s = out.with_suffix(".log"), 3 + 1.6 * done.took / kills  # a start takes some three seconds
        made, draw = 0, random.Random(seed)
        while not made:  # fewer than asked where a faster moment of the machine finished it before; never none
            shutil.rmtree(out, ignore_errors=True)
            with log.open("ab") as errors:
                begin = partial(start_command, *done.given, "--out", out, errors=errors)
                made, codes = killed_run(begin, kills=kills, most_s=most_s, draw=draw)
            assert codes in ([], [0]), log.read_text()
            most_s /= 2

    return run


@pytest.fixture(scope="session")
def small_splits() -> Splits:
    """Built-in images at 16 × 16, few enough to train on in a second."""
    return material.small_splits()


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A folder of this run that all its workers share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def tiny_prior(small_splits, shared):
    """A generator of the attacker's images, good enough to be searched; the first worker that asks trains it."""
    config = PriorConfig(width=8, batch_size=16, iterations=250, average=0.95)
    with locked(shared / "prior", patience_s=500):
        return GAN.cached(config, small_splits.public, shared / "prior", Run())[0]


@pytest.fixture
def killed(monkeypatch):
    """``killed(epoch)``: a report that ends a training there, by default in its last, as Ctrl-C does.

    Every epoch is saved, after it is reported: the checkpoint that is left is one epoch old.
    """
    monkeypatch.setitem(epochs.__kwdefaults__, "every_s", 0.0)

    def at(epoch=None, of=None):
        def report(what, done, total, figures):
            if done == (epoch or total) and of in (None, what):
                raise KeyboardInterrupt

        return report

    return at


@pytest.fixture(scope="session")
def certificates(tmp_path_factory) -> Path:
    """A folder of PEM files: ``server`` and ``camera`` by the authority ``ca``, ``stranger`` by ``other-ca``."""
    folder = tmp_path_factory.mktemp("certificates")
    for authority, names in (("ca", ("server", "camera")), ("other-ca", ("stranger",))):
        _certificate(folder, authority, "basicConstraints=critical,CA:TRUE")
        for name in names:
            _certificate(folder, name, "subjectAltName=DNS:localhost,IP:127.0.0.1", authority)
    return folder


def _certificate(folder: Path, name: str, extension: str, authority: str | None = None) -> None:
    """A key and a certificate for it, by ``authority`` or by itself."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-subj", f"/CN={name}", "-addext", extension, "-days", "2"]
    command += ["-keyout", f"{name}.key", "-out", f"{name}.pem"]
    if authority is not None:
        command += ["-CA", f"{authority}.pem", "-CAkey", f"{authority}.key"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
