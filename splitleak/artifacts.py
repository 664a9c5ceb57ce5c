"""Atomic file writes, weights as safetensors (without pickle), and the provenance of a result."""

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


@contextmanager
def written_folder(path: Path) -> Iterator[Path]:
    """Atomic folder write: yields an empty folder that replaces ``path`` if the block succeeds, and is removed if not.

    A reader sees the old folder or the new one, never a partial one. Leftovers of a killed process are removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, old = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.old")
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if path.exists():
            path.rename(old)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def written_file(path: Path) -> Iterator[Path]:
    """Atomic file write: yields a temporary path that replaces ``path`` if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, document: object, *, private: bool = False) -> None:
    """Writes ``document`` as indented JSON, atomically; a ``private`` file is readable by its owner alone."""
    with written_file(path) as partial:
        if private:
            partial.touch(0o600)
            partial.chmod(0o600)
        partial.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes named tensors as safetensors, atomically."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with written_file(path) as partial:
        save_file(plain, partial, dict(metadata or {}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, and its metadata; no code is run.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a safetensors file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"expected weights at {path}, but there is no such file")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: expected a safetensors file, but {error}") from None


def provenance() -> dict[str, Any]:
    """Provenance of a result: command, commit, hardware, versions, and time (UTC).

    The commit is that of the package's own checkout, and ``unknown`` where it is installed from a wheel.
    """
    return {
        "command": shlex.join([*_program(), *sys.argv[1:]]),
        "commit": _commit(),
        "hardware": hardware(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "version": metadata.version("splitleak"),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _program() -> list[str]:
    """The program's name, or ``python -m PACKAGE`` if it was started so."""
    path = Path(sys.argv[0])
    return ["python", "-m", str(sys.modules["__main__"].__package__)] if path.stem == "__main__" else [path.name]


@cache
def hardware() -> str:
    """The processor, the threads torch uses, and the GPU if there is one."""
    name = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {os.cpu_count()} cores, torch threads: {torch.get_num_threads()}{gpu}"


@cache
def _commit() -> str:
    """The commit of the package's checkout, marked ``+changes`` if files differ from it; else ``unknown``."""
    checkout = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=checkout, check=True, capture_output=True, text=True, timeout=10
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != checkout:  # installed below somebody else's repository
            return "unknown"
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
