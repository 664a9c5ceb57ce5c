"""Outputs of jobs behind a URL that fsspec knows, a folder or a bucket of S3: each is there whole, or is not there.

Below the URL, in ``threads-<n>/``, for results depend on them::

    <job>.<digest>.tar    what a job wrote, as `pack` packs it
    <job>.json            the digest; written last

What no such file names is not there, and what one names is checked by its digest. So a writer may die at any moment,
and two that write one job are in nobody's way: whose mark is the last is read. Nothing is removed.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterable

import fsspec
from fsspec.implementations.local import LocalFileSystem

from splitleak.errors import said
from splitleak.eval.campaign.bench import Figures
from splitleak.eval.campaign.merging import files_of
from splitleak.eval.campaign.packing import pack, unpack_into
from splitleak.eval.campaign.plan import Job
from splitleak.eval.campaign.store import Store

_ONE_SLASH = re.compile(r"(?!file:|local:)[a-z][a-z0-9+.-]+:(?!//|:)", re.IGNORECASE)

FETCHED: Figures = {"from": "store"}
"""Of a job that this run did not do."""


class RemoteStore:
    """What is behind a URL, beside the folder of one campaign, of which it gets all that is done."""

    def __init__(self, url: str, store: Store, threads: int) -> None:
        """Nothing is written yet.

        Args:
            url: Of a folder; several campaigns may share it, as jobs of equal ids have equal outputs.
            store: Of the folder.
            threads: Of each job.

        Raises:
            ValueError: fsspec knows no such protocol, or lacks a package for it, or a slash is missing after one.
        """
        if _ONE_SLASH.match(url):  # a folder of that name, to fsspec
            raise ValueError(f"expected a URL such as s3://bucket/folder, or a folder, got {url}")
        try:
            self._files, root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise ValueError(f"expected a URL that can be reached, got {url}: {error}") from None
        self._root, self._store = f"{root.rstrip('/')}/threads-{threads}", store
        if isinstance(self._files, LocalFileSystem):  # a bucket has no folders
            self._files.makedirs(self._root, exist_ok=True)

    def put_missing(self, jobs: Iterable[Job]) -> None:
        """Puts what is done in the folder and not there yet, as of an earlier run."""
        self._files.invalidate_cache()
        try:
            names = {path.rpartition("/")[2] for path in self._files.ls(self._root, detail=False)}
        except FileNotFoundError:
            names = set()
        for job in jobs:
            if f"{job.id}.json" not in names and self._store.is_done(job):
                self.put(job)

    def around(self, work: Callable[[Job], Figures]) -> Callable[[Job], Figures]:
        """``work`` for jobs that are not there, whose outputs are put; all others are fetched.

        In an outage of the store a job is done here; what cannot be put is in the folder nevertheless, its figures say
        so, and `put_missing` of a later run puts it.
        """

        def do(job: Job) -> Figures:
            with contextlib.suppress(Exception):  # any that a file system has: then it is as if it were not there
                if self.fetch(job):
                    return FETCHED
            figures = work(job)
            try:
                self.put(job)
            except Exception as error:
                return {**figures, "not put": said(error)}
            return figures

        return do

    def put(self, job: Job) -> None:
        """Puts what a job wrote; nothing, of one whose output lies elsewhere than in the folder."""
        if not files_of(job.document(), self._store.folder):
            return
        packed = pack(self._store.folder, job)
        digest = hashlib.sha256(packed).hexdigest()
        self._files.pipe_file(self._packed(job, digest), packed)
        self._files.pipe_file(self._mark(job), json.dumps({"sha256": digest}).encode())

    def fetch(self, job: Job) -> bool:
        """Brings what a job wrote to the folder; false where it is not there whole, or is of another name."""
        try:
            mark = json.loads(self._files.cat_file(self._mark(job)))
            digest = mark.get("sha256") if isinstance(mark, dict) else None
            packed = self._files.cat_file(self._packed(job, str(digest)))
            if hashlib.sha256(packed).hexdigest() != digest:
                return False
            unpack_into(packed, job, self._store.folder)
        except (FileNotFoundError, ValueError, RecursionError):  # a mark that is not whole says nothing
            return False
        return self._store.is_done(job)

    def _mark(self, job: Job) -> str:
        return f"{self._root}/{job.id}.json"

    def _packed(self, job: Job, digest: str) -> str:
        return f"{self._root}/{job.id}.{digest}.tar"
