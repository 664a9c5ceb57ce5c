"""What a job wrote, as one piece: a tar file that travels to another folder or machine, whole or not at all."""

import io
import shutil
import tarfile
import tempfile
from pathlib import Path

from splitleak.eval.campaign.merging import bring, files_of
from splitleak.eval.campaign.plan import Job
from splitleak.eval.campaign.store import is_whole


def pack(folder: Path, job: Job) -> bytes:
    """The output of a job, the settings beside it and its log, as an uncompressed tar file."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for path in files_of(job.document(), folder):
            archive.add(path, str(path.relative_to(folder)))
    return held.getvalue()


def unpack(packed: bytes, parent: Path) -> Path:
    """A new folder in ``parent`` with what `pack` packed."""
    folder = Path(tempfile.mkdtemp(prefix=".packed-", dir=parent))
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder


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
