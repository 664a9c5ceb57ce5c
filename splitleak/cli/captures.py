"""The commands of capture files: what one holds, what of a damaged one can be saved, and one made of several."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from splitleak.cli.options import Json
from splitleak.cli.output import print_json, result
from splitleak.logs import printable

if TYPE_CHECKING:
    from splitleak.wire.files.repair import Checked

capture = typer.Typer(no_args_is_help=True, help="Check capture files, salvage a damaged one, join several.")
CaptureFiles = Annotated[
    list[Path], typer.Argument(help="Capture files (`splitleak tap`, `splitleak cloud --capture`).")
]
NewFile = Annotated[Path, typer.Option(help="The capture to write; an existing file is left alone and refused.")]


@capture.command("check")
def check(files: CaptureFiles, as_json: Json = False) -> None:
    """Say what each file holds, and what is missing or damaged in it; exit status 1 if it is damaged."""
    from splitleak.wire.files.repair import check as checked

    found = [checked(file) for file in files]
    for each in found:
        if as_json:
            print_json(each.document())
        else:
            typer.echo(printable(_described(each)))
    if any(each.damages for each in found):
        raise typer.Exit(1)


@capture.command("salvage")
def salvage(
    file: Annotated[Path, typer.Argument(help="The damaged capture file.")], out: NewFile, as_json: Json = False
) -> None:
    """Copy every intact message of a damaged file, and of its earlier parts, to a new one that notes the gaps."""
    _join([file], out, as_json, salvaging=True)


@capture.command("join")
def join(files: CaptureFiles, out: NewFile, as_json: Json = False) -> None:
    """Write one file from several, each with its earlier parts, or from one that `cat` made of several."""
    _join(files, out, as_json, salvaging=False)


def _join(files: list[Path], out: Path, as_json: bool, *, salvaging: bool) -> None:
    from splitleak.wire.files.repair import join as joined

    made = joined(files, out, salvage=salvaging)
    result(as_json, made.document(), _described(made))


def _described(found: "Checked") -> str:
    from splitleak.wire.files.captures import lost_by

    text = f"{found.path}: {found.messages} messages of {found.calls} calls in {found.size} bytes"
    if found.continues is not None:
        text += f"; continues {found.continues}"
    for gap in found.gaps:
        contents = gap.note or {}
        text += f"\n  gap: {lost_by(gap) or 'unknown number of'} messages missing: {contents.get('reason', '')}"
    return text + "".join(f"\n  {damage}" for damage in found.damages)
