"""Docstrings as Markdown: formulas become MathML, which browsers draw by themselves, and examples become code."""

import re
from typing import Any

import griffe
from latex2mathml.converter import convert

_BLOCK = re.compile(r"^( *)\.\. math::(.*(?:\n\1 +\S.*)*)", re.MULTILINE)
_INLINE = re.compile(r":math:`([^`]+)`")
_EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


class Markdown(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:  # noqa: ANN401
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    """Block and inline formulas of ``text``, and the examples that start its lines, as Markdown has them."""
    text = _BLOCK.sub(lambda found: f"{found[1]}{_formula(found[2], 'block')}", text)
    text = _INLINE.sub(lambda found: _formula(found[1], "inline"), text)
    return _EXAMPLE.sub(lambda found: f"```pycon\n{found[0]}\n```", text)


def _formula(tex: str, display: str) -> str:
    return convert(" ".join(tex.split()), display=display)
