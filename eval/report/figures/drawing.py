"""What all plots of a report share: one look, light and dark, and the formats they are written in."""

import base64
import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from splitleak.artifacts import written_file

_INK, _PAPER = "#1b1f24", "#fefefe"  # each a colour that no curve has
_AT_NIGHT = {  # ink and paper, and curves' colours that are too dark for a dark page
    _INK: "#d7dde4",
    _PAPER: "#14181d",
    "#1f77b4": "#5aa9e6",
    "#2ca02c": "#57c257",
    "#8c564b": "#c99a8f",
    "#9467bd": "#b794dd",
    "#d62728": "#ff6b6b",
}
_LOOK: dict[Any, Any] = {
    "svg.hashsalt": "splitleak",
    "pdf.fonttype": 42,  # letters stay letters
    "text.parse_math": False,  # a dollar in a name is a dollar
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), _PAPER),
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
}
_DPI = 110
_UNSAFE = re.compile(r"[^\w.-]+")
_LONGEST = 150  # bytes of a file's name without its suffix: names are of at most 255, with what is put around it
_MARK = 12  # hexadecimal digits that tell shortened names apart


@dataclass(frozen=True)
class Plot:
    """A drawn figure, as text of SVG for light and dark pages, and as bytes of PDF; ``alt`` tells what it shows."""

    name: str
    alt: str
    light: str
    dark: str
    pdf: bytes

    def uri(self, form: str) -> str:
        """The figure as a data URI: ``light``, ``dark`` or ``pdf``."""
        content, kind = {
            "light": (self.light.encode(), "image/svg+xml"),
            "dark": (self.dark.encode(), "image/svg+xml"),
            "pdf": (self.pdf, "application/pdf"),
        }[form]
        return data_uri(content, kind)


def file_name(title: str) -> str:
    """A title as a file's name; a long one is shortened, and ends with a hash of the whole.

    >>> file_name("Scores: builtin, vgg11")
    'Scores_builtin_vgg11'
    """
    name = _UNSAFE.sub("_", title)
    if len(name.encode()) <= _LONGEST:
        return name
    return f"{name.encode()[:_LONGEST].decode(errors='ignore')}-{hashlib.sha256(title.encode()).hexdigest()[:_MARK]}"


def data_uri(content: bytes, kind: str) -> str:
    """A file's content as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def draw_plot(name: str, alt: str, draw: Callable[[], Figure], out: Path) -> Plot:
    """Draws a figure, and writes it as PNG, SVG and PDF to the folder ``out``.

    The same figure gives the same files. For dark pages some colours change, and nothing else does.
    """
    with mpl.rc_context(_LOOK):
        figure = draw()
        contents = {form: _saved(figure, form) for form in ("svg", "pdf", "png")}
    for suffix, content in contents.items():
        with written_file(out / f"{file_name(name)}.{suffix}") as partial:
            partial.write_bytes(content)
    light = contents["svg"].decode()
    dark = light
    for day, night in _AT_NIGHT.items():
        dark = dark.replace(day, night)
    return Plot(name, alt, light, dark, contents["pdf"])


def _saved(figure: Figure, form: str) -> bytes:
    buffer = io.BytesIO()
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": None}[form]
    figure.savefig(buffer, format=form, dpi=_DPI, metadata=undated)
    return buffer.getvalue()
