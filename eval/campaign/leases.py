"""Leases on jobs, of machines that share a folder: each has one holder, who loses it where no sign of life comes.

Below the folder of a campaign::

    leases/alive/<holder>       rewritten every few seconds while the holder lives, and removed when it leaves
    leases/<job>.<generation>   its holder; the highest generation counts, and a new one is made once that is dead

Files are made exclusively, which file systems of networks can do, and read anew each time. No clocks are compared: a
holder is dead once its file has not changed for a while on the clock of whoever looks, and looks again and again.
"""

import contextlib
import itertools
import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

BEAT_S = 5.0
DEAD_S = 30.0

_LONGEST_NAME = 255  # bytes, on any file system


class Leases:
    """The leases of one holder in a folder, and what it knows of others."""

    def __init__(
        self,
        folder: Path,
        role: str,
        *,
        beat_s: float = BEAT_S,
        dead_s: float = DEAD_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """In ``folder``, a campaign's.

        Args:
            folder: The campaign's.
            role: What the holder does, without a point; another start of it is another holder of that role.
            beat_s: Seconds between two signs of life.
            dead_s: Seconds without one after which a holder is dead.
            clock: Gives the seconds.
        """
        self.role, self.holder = role, f"{role}.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"
        self._leases, self._alive = folder / "leases", folder / "leases" / "alive"
        self._beat_s, self._dead_s, self._clock = beat_s, dead_s, clock
        # Of each holder: the last sign of life, how long it has been the same, and when it was looked at.
        self._signs: dict[str, tuple[str, float, float]] = {}
        self._held: dict[str, Path] = {}

    @contextlib.contextmanager
    def living(self) -> Iterator[None]:
        """Gives signs of life and watches for others' while the block runs; then leaves, and gives all leases back."""
        self._alive.mkdir(parents=True, exist_ok=True)
        over, sign = threading.Event(), self._alive / self.holder
        sign.write_text("0", encoding="utf-8")

        def beat() -> None:
            for count in itertools.count(1):
                if over.wait(self._beat_s):
                    return
                with contextlib.suppress(OSError):  # the next may succeed
                    sign.write_text(str(count), encoding="utf-8")
                    for name in self._names():
                        self._is_dead(name)

        beating = threading.Thread(target=beat, name="lease", daemon=True)
        beating.start()
        try:
            yield
        finally:
            over.set()
            beating.join()
            for job in list(self._held):
                self.give_back(job)
            sign.unlink(missing_ok=True)

    def take(self, job: str) -> bool:
        """Takes the lease on ``job``, unless another living holder has it."""
        before = self._holders(job)
        highest = max(before, default=0)
        if before and not self._is_free(f"{job}.{highest}", before[highest]):
            return False
        lease = self._leases / f"{job}.{highest + 1}"
        try:
            with lease.open("x", encoding="utf-8") as file:
                file.write(self.holder)
        except FileExistsError:
            return False
        now = self._holders(job)
        if now.items() - before.items() - {(highest + 1, self.holder)}:  # another came, as who was taken over left
            lease.unlink(missing_ok=True)
            return False
        self._held[job] = lease
        return True

    def _holders(self, job: str) -> dict[int, str]:
        """What the leases on ``job`` hold, by generation; of who has left, however late, there is none any more."""
        found: dict[int, str] = {}
        for path in self._leases.iterdir() if self._leases.is_dir() else ():
            name, _, number = path.name.rpartition(".")
            if name == job and number.isdecimal():
                with contextlib.suppress(FileNotFoundError):
                    found[int(number)] = _text(path)
        return found

    def _is_free(self, lease: str, said: str) -> bool:
        """Whether the holder of a lease, which has that name and holds ``said``, is dead."""
        holder = _name(said)
        # Without a name it is being made, or was when its holder died, or somebody broke it.
        return holder != self.holder and (self._is_dead(holder) if holder else self._is_old(lease, holder))

    def give_back(self, job: str) -> None:
        """Gives the lease on ``job`` back, if it is held."""
        if (lease := self._held.pop(job, None)) is not None:
            lease.unlink(missing_ok=True)

    def roles(self) -> set[str]:
        """Those of all holders that are here, alive or dead, but this one."""
        return {name.partition(".")[0] for name in self._names()}

    def living_holder(self) -> str | None:
        """Another holder that gives signs of life; where there may be one, all are watched until they are dead."""
        first = {name: self._sign(name) for name in self._names()}
        pause_s = self._beat_s / 10
        for _ in range(math.ceil(self._dead_s / pause_s)):  # looks, not seconds: who watches may be stopped meanwhile
            if all(sign is None for sign in first.values()):
                break
            time.sleep(pause_s)
            now = {name: self._sign(name) for name in first}
            if changed := [name for name, sign in now.items() if sign not in (None, first[name])]:
                return changed[0]
            first = {name: sign for name, sign in first.items() if now[name] is not None}
        return None

    def forget(self) -> None:
        """Removes all leases and signs; for whoever is alone in the folder."""
        for path in (*self._alive.glob("*"), *self._leases.glob("*.*")):
            path.unlink(missing_ok=True)

    def _names(self) -> list[str]:
        return sorted(path.name for path in self._alive.glob("*") if path.name != self.holder)

    def _sign(self, holder: str) -> str | None:
        try:
            return _text(self._alive / holder)
        except FileNotFoundError:
            return None

    def _is_dead(self, holder: str) -> bool:
        """Whether a holder has left, or gives no sign of life."""
        sign = self._sign(holder)
        return sign is None or self._is_old(holder, sign)

    def _is_old(self, name: str, sign: str) -> bool:
        """Whether a sign has been the same for as long as the living do not let it be.

        Of the time between two looks no more than a half of that counts: whoever was stopped for an hour, with all
        others perhaps, looks again before it takes one of them for dead.
        """
        now = self._clock()
        before, silent_s, looked = self._signs.get(name, (None, 0.0, now))
        silent_s = silent_s + min(now - looked, self._dead_s / 2) if sign == before else 0.0
        self._signs[name] = (sign, silent_s, now)
        return silent_s >= self._dead_s


def _text(path: Path) -> str:
    """What a file holds, whatever that is."""
    return path.read_bytes().decode("utf-8", "replace")


def _name(text: str) -> str:
    """A holder's name; empty where ``text`` is none."""
    fits = text.isprintable() and not {*text} & {*"/\\"} and len(text.encode()) <= _LONGEST_NAME
    return text if fits and text.strip(".") else ""
