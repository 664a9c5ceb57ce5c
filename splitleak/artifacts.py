"""Atomic file writes, weights as safetensors (without pickle), and the provenance of a result."""

import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from splitleak.errors import said
from splitleak.outputs import FolderKind, beside, check_file, claimed, install, locked, sync, sync_all

_OTHER_WRITER_S = 10.0
_DIGITS = 12  # of a digest
_NO_SETTINGS = {"--json": 0, "--force": 0, "--out": 1, "--plot": 1, "--log-level": 1}  # options, and their values


@contextmanager
def written_folder(
    path: Path, kind: FolderKind, settings: Mapping[str, Any] | None = None, *, force: bool = False
) -> Iterator[Path]:
    """Atomic folder write: yields an empty folder that replaces ``path`` if the block succeeds, and is removed if not.

    Wherever the process dies, or the power is cut, one whole folder is left, old or new, which the next claim of
    ``path`` finds. Raises as `claimed` does.
    """
    with claimed(path, kind, settings, force=force) as place:
        partial = beside(place, "partial")
        partial.mkdir()
        try:
            yield partial
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync_all(partial)
        partial.rename(beside(place, "new"))
        sync(place.parent)
        install(place, kind)


@contextmanager
def written_file(path: Path) -> Iterator[Path]:
    """Atomic file write: yields a temporary path that replaces ``path`` if the block succeeds.

    Raises:
        BlockingIOError: Another process has been writing it for seconds.
        FileExistsError: There is a folder, a device or a pipe at ``path``, or a link where it is written at first.
    """
    place = path.resolve()
    if place.exists() and not place.is_file():
        raise FileExistsError(f"expected a file or none at {path}, got something else; it was not touched")
    with locked(place, patience_s=_OTHER_WRITER_S):
        partial = beside(place, "partial")
        if partial.is_symlink():
            raise FileExistsError(f"expected a file of ours or none at {partial}, got a link; it was not touched")
        try:
            yield partial
            sync(partial)
            os.replace(partial, place)
            sync(place.parent)
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
    """Writes named tensors as safetensors, atomically.

    Raises:
        OSError: They could not be written, to a full disk for instance.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with written_file(path) as partial:
        try:
            save_file(plain, partial, dict(metadata or {}))
        except SafetensorError as error:
            raise OSError(f"expected to write {path}, but {error}") from None


def save_weights(path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a network's weights, atomically.

    Raises:
        OSError: They could not be written.
        ValueError: Some are not finite.
    """
    check_finite(path, weights)
    save_tensors(path, weights, metadata)


def load_weights(path: Path) -> dict[str, Tensor]:
    """A network's weights, of a safetensors file; no code is run.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a safetensors file, or holds values that are not finite, or floats of eight bits.
    """
    weights, _ = load_tensors(path)
    for name, tensor in weights.items():
        if tensor.is_floating_point() and tensor.element_size() == 1:
            raise ValueError(f"{path}: expected floats of 16 bits or more, but {name!r} is of {tensor.dtype}")
    check_finite(path, weights)
    return weights


def check_finite(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Validates the weights of a file.

    Raises:
        ValueError: Some are NaN or infinite; the message counts them.
    """
    counts = {name: int((~tensor.isfinite()).sum()) for name, tensor in weights.items()}
    if broken := {name: count for name, count in counts.items() if count}:
        where = f"{len(broken)} of {len(weights)} tensors are NaN or infinite, first in {next(iter(broken))!r}"
        raise ValueError(f"{path}: expected finite weights, but {sum(broken.values())} in {where}")


def assign_weights(module: nn.Module, weights: Mapping[str, Tensor], what: str, *, assign: bool = False) -> None:
    """Loads ``weights`` into ``module``, by `torch.nn.Module.load_state_dict`, each in the module's own precision.

    Raises:
        ValueError: They do not fit, are integers in place of floats, or are larger than the module's floats can be;
            one line, which says what was expected by ``what``.
    """
    fitting, own = dict(weights), module.state_dict()
    for name in weights.keys() & own.keys():
        given, asked = weights[name].dtype, own[name].dtype
        if given.is_complex or given.is_floating_point != asked.is_floating_point:
            raise ValueError(f"{what}, but {name!r} should be of {asked} and is of {given}")
        if given != asked:
            fitting[name] = weights[name].to(asked)
            if not fitting[name].isfinite().all():
                raise ValueError(f"{what}, but {name!r} has values that no {asked} can be")
    try:
        module.load_state_dict(fitting, assign=assign)
    except RuntimeError as error:
        raise ValueError(f"{what}, but {said(error)}") from None


def are_tensors(path: Path) -> bool:
    """Whether ``path`` is a safetensors file of the length that its header says; no tensor is read."""
    try:
        with safe_open(path, framework="pt"):
            return True
    except (OSError, SafetensorError):
        return False


def tensors_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file.

    Raises:
        ValueError: It is not a safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path}: expected a safetensors file, but {error}") from None


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


def check_result(path: Path, *, force: bool) -> None:
    """Refuses to replace anything but a JSON file of ours with its provenance, and without ``force`` one that another
    command gave, or the same with another file of settings.

    Raises:
        FileExistsError: There is something else at ``path``.
    """
    check_file(path, "a result of ours (JSON with its provenance)", _asked_by, made_by(), force=force)


def made_by() -> dict[str, Any]:
    """What a result of this process depends on, as its file says: the command, and digests of the settings' files."""
    return _settings({"command": _command(), "files": _files_told()})


def _asked_by(path: Path) -> dict[str, Any] | Literal[False]:
    """What the command of a result was told."""
    document = json.loads(path.read_text(encoding="utf-8"))
    told = document.get("provenance") if isinstance(document, dict) else None
    return _settings(told) if isinstance(told, dict) else False


def _settings(told: Mapping[str, Any]) -> dict[str, Any]:
    """Of a provenance, the command's name and arguments that change a result, and the files of settings, if any."""
    words = _that_count(shlex.split(str(told.get("command"))))
    files = told.get("files")
    return {"command": shlex.join(words), **({"files": files} if files else {})}


def _that_count(words: Sequence[str]) -> list[str]:
    """The words of a command without the program, and without the options that change no result."""
    words = words[words.index("splitleak") + 1 :] if "splitleak" in words else words
    options = {place for place, word in enumerate(words) if word in _NO_SETTINGS}
    dropped = options | {place + 1 for place in options if _NO_SETTINGS[words[place]]}
    return [word for place, word in enumerate(words) if place not in dropped]


def _files_told() -> dict[str, str]:
    """Digests of the files of settings that the command line names."""
    named = (word.partition("=")[2] if word.startswith("--") and "=" in word else word for word in sys.argv[1:])
    files = {name: Path(name) for name in _that_count(list(named)) if name.endswith((".toml", ".json"))}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()[:_DIGITS] for name, path in files.items() if path.is_file()
    }


def provenance() -> dict[str, Any]:
    """Provenance of a result: command, files of settings that it names, commit, hardware, versions, and time (UTC).

    The commit is that of the package's own checkout, and ``unknown`` where it is installed from a wheel.
    """
    files = _files_told()
    return {
        "command": _command(),
        **({"files": files} if files else {}),
        "commit": _commit(),
        "hardware": hardware(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "version": metadata.version("splitleak"),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _command() -> str:
    """The command line; the program is its name, or ``python -m PACKAGE`` if it was started so."""
    path = Path(sys.argv[0])
    started = ["python", "-m", str(sys.modules["__main__"].__package__)] if path.stem == "__main__" else [path.name]
    return shlex.join([*started, *sys.argv[1:]])


def hardware() -> str:
    """The processor, the threads torch uses now, and the GPU if there is one."""
    processor, gpu = _machine()
    return f"{processor}, torch threads: {torch.get_num_threads()}{gpu}"


@cache
def _machine() -> tuple[str, str]:
    name = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {os.cpu_count()} cores", gpu


@cache
def _commit() -> str:
    """The commit of the package's checkout, marked ``+changes`` if files differ from it; else ``unknown``."""
    module = Path(__file__).resolve()
    checkout = module.parents[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # of a hook's git

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=checkout, env=environment, check=True, capture_output=True, text=True, timeout=10
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != checkout:  # installed below somebody else's repository
            return "unknown"
        git("ls-files", "--error-unmatch", str(module))  # or at its top, where it is none of its files
        project = tomllib.loads((checkout / "pyproject.toml").read_text("utf-8")).get("project", {})
        if project.get("name") != "splitleak":  # or is one of them
            return "unknown"
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, ValueError, subprocess.SubprocessError):
        return "unknown"
