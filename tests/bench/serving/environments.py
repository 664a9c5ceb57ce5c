"""The peers' own virtual environments, made once under ``runs/bench-serving``, which git ignores."""

import ctypes.util
import logging
import shutil
import subprocess
import sys
from pathlib import Path

_LOGGER = logging.getLogger(__name__)
_PATIENCE_S = 1800

REQUIREMENTS = {
    "kserve": ("kserve==0.21.0", "onnxruntime"),
    "mlserver": ("mlserver==1.7.1", "uvloop<0.22", "onnxruntime"),  # newer ones do not start its workers
    "triton": ("nvidia-pytriton==0.7.0", "onnxruntime"),
}


def environment(name: str, folder: Path) -> Path:
    """The environment of peer ``name`` under ``folder``, installed now where it is not there yet.

    Raises:
        RuntimeError: It cannot be had here; the message says why.
    """
    path, wanted = folder / name, "\n".join(REQUIREMENTS[name])
    mark = path / "installed.txt"
    if not (mark.is_file() and mark.read_text() == wanted):
        _LOGGER.info("installing %s into %s", ", ".join(REQUIREMENTS[name]), path)
        shutil.rmtree(path, ignore_errors=True)
        python = shared_python() if name == "triton" else sys.executable
        _run(python, "-m", "venv", path)
        pip = (path / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--quiet")
        _run(*pip, "install", "--progress-bar", "off", *REQUIREMENTS[name])
        mark.write_text(wanted)
    return path


def shared_python() -> str:
    """A Python whose interpreter is also a shared library of the system: Triton's Python backend loads that."""
    found = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if found:
        version = _run(found, "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()
        if ctypes.util.find_library(f"python{version}"):
            return found
    raise RuntimeError("expected a system Python with its shared library (Debian: python3, libpython3.x), found none")


def _run(*command: object) -> str:
    try:
        made = subprocess.run(
            list(map(str, command)),
            check=True,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=_PATIENCE_S,
        )
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"{' '.join(map(str, command))}: {error.stderr.strip()[-500:]}") from None
    return made.stdout
