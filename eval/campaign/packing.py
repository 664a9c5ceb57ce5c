"""What a job wrote, as one piece: a tar file that travels to another folder or machine, whole or not at all."""

import io
import shutil
import tarfile
import tempfile
from pathlib import Path

from splitleak.eval.campaign.merging import bring, files_of
from splitleak.eval.campaign.plan import Job
from splitleak.eval.campaign.store import PACKED, is_whole


def pack(folder: Path, job: Job) -> bytes:
    """The output of a job, the settings beside it and its log, as an uncompressed tar file."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for path in files_of(job.document(), folder):
            archive.add(path, str(path.relative_to(folder)))
    return held.getvalue()


def unpack(packed: bytes, parent: Path) -> Path:
    """A new folder in ``parent`` with what `pack` packed.

    Raises:
        ValueError: Something else than files and folders, or a name that leads out of the folder; nothing is left.
    """
    folder = Path(tempfile.mkdtemp(prefix=PACKED, dir=parent)).resolve()
    try:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            for member in archive:  # by hand, as Python before 3.11.4 has no filter for what a stranger may have made
                _unpack(archive, member, folder)
    except BaseException:
        shutil.rmtree(folder)
        raise
    return folder


def _unpack(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    place = (folder / member.name).resolve()
    if not (member.isfile() or member.isdir()) or not place.is_relative_to(folder):
        raise ValueError(f"expected files and folders of a job in what was packed, got {member.name!r}")
    if member.isdir():
        place.mkdir(parents=True, exist_ok=True)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    source = archive.extractfile(member)
    assert source is not None  # it is a file
    with source, place.open("wb") as file:
        shutil.copyfileobj(source, file)


def unpack_into(packed: bytes, job: Job, folder: Path) -> None:
    """Puts what a job wrote into a campaign's folder, its output last, so that the job is done there or is not.

    Raises:
        FileNotFoundError: The job's output is not in ``packed``, or not all of it; nothing is put.
    """
    there = unpack(packed, folder)
    try:
        if not is_whole(job.kind, there / job.output):
            raise FileNotFoundError(f"expected {job.output} in what was packed of {job.id}, got something else")
        bring(job.document(), there, folder)
    finally:
        shutil.rmtree(there)
