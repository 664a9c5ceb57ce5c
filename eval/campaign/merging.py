"""Joins the folders of one campaign that were made on separate machines, by shards or by seeds."""

import errno
import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from splitleak.artifacts import load_tensors, provenance, write_json
from splitleak.config import digest, read_table
from splitleak.datasets.splits import SPLITS
from splitleak.edge.ledger import Ledger
from splitleak.eval.campaign.forecast import Times
from splitleak.eval.campaign.leases import Leases
from splitleak.eval.campaign.store import NETWORKS, PLAN, WEIGHTS, Store, is_whole
from splitleak.npz import open_npz
from splitleak.outputs import beside, locked

_FOR_ITS_FOLDER = (SPLITS.mark, "score")  # names of outputs that stand for the folder that they are in
_COMPARED = ("split", "poison", "open", "cell", "leakage", "linkage", "besides")
_OBSERVED = ("capture", "predict")  # what victims sent and shared, and the attacker's queries
_RANDOM = {"ids", "prefix"}  # arrays of requests' ids
_TIMES = "training-time-"  # begins the name of an output of times, which are no result
_OF_ONE_RUN = ("provenance", "id")  # a record's id holds no more than its parts; a provenance holds the time
_PLACES = ("data", "data_root", "artifact", "onnx", "folder")  # of a user's own, whose contents are in the ids of jobs


@dataclass(frozen=True)
class Merged:
    """What a merge came to."""

    jobs: int
    done: int
    copied: int


def stable(document: Any) -> Any:  # noqa: ANN401  # as `read_document`
    """A document without what differs between two runs of the same thing: provenance, durations and request ids."""
    return _without(document, lambda key: key in _OF_ONE_RUN or key.endswith(("_s", "_ms")))


def _without(document: Any, left_out: Callable[[str], bool]) -> Any:  # noqa: ANN401  # as `read_document`
    if isinstance(document, Mapping):
        return {key: _without(value, left_out) for key, value in document.items() if not left_out(key)}
    return [_without(value, left_out) for value in document] if isinstance(document, list) else document


def merge(out: Path, folders: Sequence[Path]) -> Merged:
    """Copies to ``out`` what is done in ``folders`` and not there yet; nothing is copied unless all fit each other.

    Raises:
        BlockingIOError: A run is in one of the folders.
        FileExistsError: ``out`` holds something else than a campaign.
        FileNotFoundError: One of ``folders`` is no campaign's.
        ValueError: They are of different campaigns, or two of them have different records, weights, or captures
            of one id.
    """
    for folder in folders:
        if (living := Leases(folder, "merge").living_holder()) is not None:
            raise BlockingIOError(f"expected no run in {folder}, but the shard {living} runs in it")
    store = Store(out)
    with store.claimed(), _all_held(folders):
        sources = [out, *folders] if (out / PLAN).is_file() else list(folders)
        plan = _one_plan(sources)
        wanted = [(job, having) for job in plan["jobs"] if (having := _having(job, sources))]
        for job, having in wanted:
            _check_equal(job, having)
        write_json(out / PLAN, {**plan, "provenance": provenance()})
        copied = [job for job, (first, *_) in wanted if first != out and bring(job, first, out)]
        for folder in folders:
            for failure in folder.glob("failures/*.json"):
                if not (out / "failures" / failure.name).exists():
                    _copied(failure, out / "failures" / failure.name)
            known = set(Times.recorded(out).jobs)
            for took in Times.recorded(folder).jobs:
                if took not in known:
                    store.record_time(took)
    return Merged(len(plan["jobs"]), len(wanted), len(copied))


@contextmanager
def _all_held(folders: Sequence[Path]) -> Iterator[None]:
    """No run begins or goes on in ``folders`` while the block runs."""
    with ExitStack() as stack:
        for folder in folders:
            Store(folder).read_plan()
            try:
                stack.enter_context(locked(folder.resolve()))
            except OSError as error:
                if error.errno not in (errno.EROFS, errno.EACCES):  # nobody runs where nobody may write
                    raise
        yield


def _one_plan(folders: Sequence[Path]) -> dict[str, Any]:
    """The plan that all of ``folders`` have, but for its provenance, and where files lie on each machine."""
    given = [
        {key: value for key, value in Store(folder).read_plan().items() if key != "provenance"} for folder in folders
    ]
    plans = [{**plan, "config": _without(plan["config"], _PLACES.__contains__)} for plan in given]
    first = plans[0]
    for folder, plan in zip(folders, plans, strict=True):
        if different := [key for key in {**first, **plan} if first.get(key) != plan.get(key)]:
            expected = f"expected folders of one campaign, but {folder / PLAN} differs from {folders[0] / PLAN}"
            raise ValueError(f"{expected} in {', '.join(different)}")
    return given[0]


def _having(job: Mapping[str, Any], folders: Sequence[Path]) -> list[Path]:
    """The folders in which a job is done."""
    return [folder for folder in folders if is_whole(job["kind"], folder / job["output"])]


def _check_equal(job: Mapping[str, Any], folders: Sequence[Path]) -> None:
    if len(folders) < 2:
        return
    first, *others = (_result(folder, job) for folder in folders)
    for folder, documents in zip(folders[1:], others, strict=True):
        if different := [name for name in {**first, **documents} if first.get(name) != documents.get(name)]:
            expected = (
                f"expected equal outputs of {job['kind']} {job['label']} ({job['id']}), but {different[0]} differs"
            )
            raise ValueError(f"{expected} between {folders[0]} and {folder}")


def _result(folder: Path, job: Mapping[str, Any]) -> dict[str, Any]:
    """What equal jobs have equal, by the name of its file: documents, and digests of weights."""
    output, kind = folder / job["output"], job["kind"]
    if kind in _OBSERVED:
        documents: Iterable[Path] = [path for path in [output / "service.json"] if path.is_file()]
        ledgers, arrays = output.glob("ledger.json"), output.glob("*.npz")
        observed = {path.name: _sent(path) for path in ledgers} | {path.name: _arrays_digest(path) for path in arrays}
    elif kind not in _COMPARED or output.name.startswith(_TIMES):
        documents, observed = (), {}
    else:
        documents, observed = output.glob("*.json") if output.is_dir() else (output,), {}
    weights = [output / name for name in WEIGHTS.get(kind, ()) if (output / name).is_file()]
    networks = [output / name for name in NETWORKS.get(kind, ()) if (output / name).is_file()]
    return {
        **{path.name: stable(read_table(path)) for path in documents},
        **observed,
        **{str(path.relative_to(output)): _weights_digest(path) for path in weights},
        **{str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest() for path in networks},
    }


def _sent(ledger: Path) -> str:
    """Digest of what victims sent, in order: not of the ids, which are random."""
    return digest([(entry.place, entry.payload_sha256) for entry in Ledger.read(ledger).entries])


def _arrays_digest(path: Path) -> str:
    """Of what was answered to queries, or shared, but for the ids of the requests."""
    with open_npz(path) as file:
        arrays = ((name, file[name]) for name in sorted({*file.names} - _RANDOM))
        return _digest_of((name, array.dtype, array.shape, array.tobytes()) for name, array in arrays)


def _weights_digest(path: Path) -> str:
    """Of the tensors alone: what else is in the file stands in any order."""
    tensors, _ = load_tensors(path)
    return _digest_of(
        (name, tensor.dtype, tuple(tensor.shape), tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        for name, tensor in sorted(tensors.items())
    )


def _digest_of(values: Iterable[tuple[str, object, tuple[int, ...], bytes]]) -> str:
    """Of values by name: their type, their shape and their bytes."""
    found = hashlib.sha256()
    for name, kind, shape, content in values:
        found.update(f"{name} {kind} {shape}".encode())
        found.update(content)
    return found.hexdigest()


def files_of(job: Mapping[str, Any], folder: Path) -> list[Path]:
    """What a job of a plan wrote in ``folder``: settings, log, and last its output; none where that lies elsewhere."""
    output = Path(job["output"])
    if output.is_absolute():
        return []
    place = folder / (output.parent if output.name in _FOR_ITS_FOLDER else output)
    log = folder / "logs" / f"{job['id']}.log"
    settings = place.parent.glob(f"{place.name.removesuffix('.json')}.*.json")
    return [*settings, *([log] if log.exists() else []), place]


def bring(job: Mapping[str, Any], source: Path, out: Path) -> bool:
    """Copies what a job wrote from one folder to another, its output last; false where there is nothing to copy."""
    files = files_of(job, source)
    for path in files:
        _copied(path, out / path.relative_to(source))
    return bool(files)


def _copied(source: Path, target: Path) -> None:
    """Copies a file or folder whole or not at all; what an unfinished job left in its place is replaced."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = beside(target, "partial")
    if not source.is_dir():
        shutil.copy2(source, partial)
        partial.replace(target)
        return
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
