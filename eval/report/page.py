"""Building blocks of reports: tables, formatted numbers, templates, and file writers."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from splitleak.artifacts import written_file
from splitleak.eval.report.results import Spread

NOTHING = "-"
PICTURES_BUDGET = 4_000_000
"""Characters of all pictures in a page, which keeps it under 5 MB."""


_LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "±": "$\\pm$",
    "×": "$\\times$",
    "Δ": "$\\Delta$",
    "δ": "$\\delta$",
    "†": "$\\dagger$",
    "↑": "$\\uparrow$",
    "↓": "$\\downarrow$",
    "<": "$<$",
    ">": "$>$",
}


@dataclass(frozen=True)
class Text:
    """A table cell: our figure, and the published one, if any."""

    ours: str
    published: str = ""

    def __str__(self) -> str:
        return f"{self.ours} ({self.published})" if self.published else self.ours


@dataclass(frozen=True)
class Sheet:
    """A table: ``columns`` are (heading over several columns or "", name); ``notes`` stand below it."""

    title: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Text, ...], ...]
    notes: tuple[str, ...] = ()

    @property
    def headings(self) -> list[tuple[str, int]]:
        """The headings over the columns, each with the number of columns it spans."""
        spans: list[tuple[str, int]] = []
        for heading, _ in self.columns:
            if spans and spans[-1][0] == heading:
                spans[-1] = (heading, spans[-1][1] + 1)
            else:
                spans.append((heading, 1))
        return spans


def spread_text(spread: Spread | None, number: Callable[[float], str], seeds: int) -> str:
    """Mean ± standard deviation, formatted by ``number``, and ``[n]`` if only n of ``seeds`` are measured."""
    if spread is None:
        return NOTHING
    deviation = "" if spread.std is None else f" ± {number(spread.std)}"
    return f"{number(spread.mean)}{deviation}{'' if spread.n == seeds else f' [{spread.n}]'}"


def decimals(digits: int) -> Callable[[float], str]:
    """A format with a number of decimals."""
    return lambda value: f"{value:.{digits}f}"


def seeds_note(seeds: Sequence[int]) -> str:
    """The note that explains `spread_text`."""
    listed = ", ".join(map(str, seeds))
    over = f"Mean ± standard deviation over {len(seeds)} seeds ({listed})" if len(seeds) > 1 else f"One seed ({listed})"
    return f"{over}; [n]: of n seeds, the others are not measured yet."


def render(template: str, **values: object) -> str:
    """Renders a template of the package; values are escaped, and a missing one is an error."""
    environment = Environment(
        loader=PackageLoader("splitleak.eval", "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def markdown_table(table: Sheet) -> Iterator[str]:
    """The lines of a table with its title and notes."""
    yield f"### {table.title}\n"
    yield "| " + " | ".join(plain(f"{heading} {name}".strip()) for heading, name in table.columns) + " |"
    yield "|" + "|".join("---" if index == 0 else "---:" for index in range(len(table.columns))) + "|"
    yield from ("| " + " | ".join(plain(str(text)) for text in row) + " |" for row in table.rows)
    yield ""
    yield from (f"{note}\n" for note in table.notes)


def csv_table(table: Sheet) -> str:
    """A table as CSV; a published figure stands in brackets behind ours."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(f"{heading} {name}".strip() for heading, name in table.columns)
    writer.writerows(list(map(str, row)) for row in table.rows)
    return text.getvalue()


def latex_table(table: Sheet) -> str:
    r"""A table as LaTeX, which needs ``\usepackage{booktabs}``: the first column on the left, figures on the right."""
    lines = [f"\\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}", "\\toprule"]
    if any(heading for heading, _ in table.headings):
        lines.append(" & ".join(_spanning(heading, span) for heading, span in table.headings) + " \\\\")
        lines += _rules(table)
    lines += [" & ".join(_escaped(name) for _, name in table.columns) + " \\\\", "\\midrule"]
    lines += [" & ".join(_escaped(str(text)) for text in row) + " \\\\" for row in table.rows]
    return "\n".join([f"% {table.title}", *lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def _spanning(heading: str, span: int) -> str:
    return f"\\multicolumn{{{span}}}{{c}}{{{_escaped(heading)}}}" if heading else " & " * (span - 1)


def _rules(table: Sheet) -> Iterator[str]:
    """A rule under each heading that stands over columns."""
    first = 1
    for heading, span in table.headings:
        if heading:
            yield f"\\cmidrule(lr){{{first}-{first + span - 1}}}"
        first += span


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def plain(text: str) -> str:
    """``text`` escaped for a cell of a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` atomically."""
    with written_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_lines(path: Path, documents: Iterable[object]) -> None:
    """Writes one line of JSON per document, atomically."""
    write_text(path, "".join(f"{json.dumps(document)}\n" for document in documents))


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows of the same columns, atomically; None is empty."""
    with written_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0] if rows else ["id"])
        writer.writeheader()
        writer.writerows(rows)
