"""What a capture file holds and what is wrong with it, and a good file made of a damaged one or of several."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from splitleak.artifacts import written_file
from splitleak.errors import WireError
from splitleak.inputs import check_different
from splitleak.wire.files.captures import (
    CONTINUES,
    GAP,
    HEADER,
    Damage,
    Record,
    has_header,
    lost_by,
    note,
    parts,
    scan,
)


@dataclass(frozen=True)
class Checked:
    """What a capture file holds."""

    path: Path
    size: int  # bytes
    messages: int
    calls: int
    first_ns: int  # wall clock of the first and the last message, 0 without any
    last_ns: int
    gaps: tuple[Record, ...]  # the writer's notes of what is missing
    damages: tuple[Damage, ...]
    continues: str | None  # the name of the earlier part

    @property
    def lost(self) -> int:
        """Messages that the writer counted as lost."""
        return sum(map(lost_by, self.gaps))

    def document(self) -> dict[str, Any]:
        damages = [{"kind": each.kind, "start": each.start, "size": each.size} for each in self.damages]
        gaps = [{"time_ns": gap.time_ns, **(gap.note or {}), "lost": lost_by(gap)} for gap in self.gaps]
        kept = {"size": self.size, "messages": self.messages, "calls": self.calls}
        times = {"first_ns": self.first_ns, "last_ns": self.last_ns}
        return {"file": str(self.path), **kept, **times, "continues": self.continues, "gaps": gaps, "damages": damages}


def check(path: Path) -> Checked:
    """Reads all of a capture file, over what is damaged too.

    Raises:
        OSError: The file cannot be opened.
        WireError: It is no capture, or one of another version.
    """
    messages, times, calls, gaps, damages = 0, [0, 0], set(), [], []
    continues = None
    for found in _contents(path):
        if isinstance(found, Damage):
            damages.append(found)
        elif found.note is None:
            messages += 1
            calls.add(found.call)
            times = [times[0] or found.time_ns, found.time_ns]
        elif found.method == GAP:
            gaps.append(found)
        elif found.method == CONTINUES:
            continues = str(found.note.get("part"))
    size = path.stat().st_size
    return Checked(path, size, messages, len(calls), times[0], times[1], tuple(gaps), tuple(damages), continues)


def join(paths: Sequence[Path], out: Path, *, salvage: bool = False) -> Checked:
    """Writes the messages of several captures, or of one that was joined byte by byte, into one, in the order given.

    Each file is preceded by its earlier parts. Calls are numbered anew where another file begins, so that they stay
    apart. What is lost at a place becomes a note of the gap. The files themselves are left as they are.

    Args:
        paths: The captures.
        out: The file to write, readable by its owner alone.
        salvage: Copy the messages around damaged stretches too.

    Raises:
        FileExistsError: ``out`` exists.
        OSError: A file cannot be read or written.
        ValueError: A file is given twice, or is an earlier part of another.
        WireError: A file is no capture, or is damaged and not to be salvaged; nothing is written.
    """
    sources = [part for path in paths for part in parts(path)]
    check_different(sources, "captures, each with its earlier parts")
    if out.exists():
        raise FileExistsError(f"expected a new file for the capture, got {out}, which exists")
    with written_file(out) as partial:
        partial.touch(0o600)
        with partial.open("wb") as file:
            file.write(HEADER)
            for record in _joined(sources, salvage):
                file.write(record.packed())
    return check(out)


def _joined(paths: Sequence[Path], salvage: bool) -> Iterator[Record]:
    first = highest = 0  # calls of this file and of all so far, numbered anew
    for path in paths:
        first = highest
        for found in _contents(path):
            if isinstance(found, Record):
                if found.note is None:
                    found = replace(found, call=first + found.call)
                    highest = max(highest, found.call + 1)
                if found.method != CONTINUES or found.note is None:
                    yield found
            elif found.kind == "joined":
                first = highest
            elif salvage or found.kind == "zeros":
                yield note(GAP, {"lost": 0, "reason": f"{path.name}: {found}"})
            elif found.kind != "incomplete":
                raise WireError(
                    f"{path}: expected intact records, got {found}; `splitleak capture salvage` goes over them"
                )


def _contents(path: Path) -> Iterator[Record | Damage]:
    """What is in a file, in order, though its header be damaged."""
    with path.open("rb") as file:
        start = len(HEADER)
        try:
            if not has_header(file, path):
                return
        except WireError:
            file.seek(0)
            another_version = file.read(8) == HEADER[:8]
            if another_version or not any(isinstance(each[0], Record) for each in itertools.islice(scan(file, 0), 2)):
                raise
            start = 0
        for found, _, _ in scan(file, start):
            yield found
