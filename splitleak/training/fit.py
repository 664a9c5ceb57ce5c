"""Checkpoints: every training loop runs on `epochs` or `step_ranges`, and resumes after an interruption."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from splitleak.artifacts import load_tensors, save_tensors
from splitleak.logs import Report, silent

_Batch = TypeVar("_Batch")
_HEARD_S = 2.0  # between two reports of how far an epoch is


@dataclass
class Resumable:
    """The state of a training run for its checkpoint; ``identity`` is the fingerprint of its config and data."""

    identity: str
    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, Optimizer]
    generators: Mapping[str, torch.Generator]
    history: list[dict[str, float]] = field(default_factory=list)
    kept: dict[str, Tensor] = field(default_factory=dict)
    heard: Callable[[float], None] = field(default=lambda share: None, repr=False)
    """Takes the share of an epoch that is done; `epochs` sets it."""

    def steps(self, batches: Iterable[_Batch], number: int) -> Iterator[_Batch]:
        """Yields the ``number`` batches of an epoch, and reports now and then how far in it they are.

        So the time left of a training is told in seconds, however long its epochs are.
        """
        last = time.monotonic()
        for done, batch in enumerate(batches, 1):
            yield batch
            if done < number and time.monotonic() - last >= _HEARD_S:
                last = time.monotonic()
                self.heard(done / number)

    def save(self, path: Path) -> None:
        """Writes a checkpoint, one safetensors file; numbers that are not tensors are JSON in its metadata."""
        tensors = {f"kept/{name}": tensor for name, tensor in self.kept.items()}
        for name, module in self.modules.items():
            tensors |= {f"module/{name}/{key}": value for key, value in module.state_dict().items()}
        for name, source in self.generators.items():
            tensors[f"generator/{name}"] = source.get_state()
        numbers: dict[str, Any] = {}
        for name, optimizer in self.optimizers.items():
            for index, state in optimizer.state_dict()["state"].items():
                for key, value in state.items():
                    if isinstance(value, Tensor):
                        tensors[f"optimizer/{name}/{index}/{key}"] = value
                    else:
                        numbers[f"{name}/{index}/{key}"] = value
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}  # safetensors refuses shared memory
        state_json = json.dumps({"identity": self.identity, "history": self.history, "numbers": numbers})
        save_tensors(path, tensors, {"state": state_json})

    def restore(self, path: Path) -> bool:
        """Loads the checkpoint at ``path``; false if there is none, or it is unreadable or of another ``identity``.

        What is kept comes back on the device that it is on now, and on the CPU where there is nothing of its name yet.
        """
        try:
            tensors, metadata = load_tensors(path)
            state = json.loads(metadata["state"])
        except (FileNotFoundError, ValueError, KeyError):
            return False
        if state["identity"] != self.identity:
            return False

        def group(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

        for name, module in self.modules.items():
            module.load_state_dict(group(f"module/{name}/"))
        for name, source in self.generators.items():
            source.set_state(tensors[f"generator/{name}"])
        for name, optimizer in self.optimizers.items():
            slots: dict[int, dict[str, Any]] = {}
            for key, value in (*group(f"optimizer/{name}/").items(), *_numbers(state["numbers"], name)):
                index, slot = key.split("/", 1)
                slots.setdefault(int(index), {})[slot] = value
            optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
        self.history[:] = state["history"]
        devices = {name: tensor.device for name, tensor in self.kept.items()}
        self.kept.clear()
        self.kept.update({name: tensor.to(devices.get(name, tensor.device)) for name, tensor in group("kept/").items()})
        return True


def _numbers(numbers: Mapping[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    return ((key.removeprefix(f"{name}/"), value) for key, value in numbers.items() if key.startswith(f"{name}/"))


def epochs(
    name: str, total: int, state: Resumable, checkpoint: Path | None, report: Report = silent, *, every_s: float = 10.0
) -> Iterator[int]:
    """Yields the remaining epochs, from 0 to ``total - 1``; the body appends its metrics to ``state.history``.

    What the body takes from `Resumable.steps` is reported within the epoch.

    Args:
        name: Of the training, for the progress report.
        total: Number of epochs.
        state: Saved to and restored from the checkpoint.
        checkpoint: File from which a run of the same ``identity`` resumes, removed after the last epoch; None: no
            checkpoint.
        report: Progress callback.
        every_s: Minimum seconds between two checkpoints.

    Raises:
        RuntimeError: The body did not append exactly one entry to the history.
    """
    if checkpoint is not None and state.restore(checkpoint):
        report(name, len(state.history), total, state.history[-1])
    state.heard = lambda share: report(name, len(state.history) + share, total, {})
    saved = time.monotonic()
    for epoch in range(len(state.history), total):
        yield epoch
        if len(state.history) != epoch + 1:
            raise RuntimeError(f"expected epoch {epoch} to append its figures once, got {len(state.history)} in all")
        report(name, epoch + 1, total, state.history[-1])
        if checkpoint is not None and time.monotonic() - saved >= every_s:
            state.save(checkpoint)
            saved = time.monotonic()
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)


def step_ranges(
    what: str, total: int, state: Resumable, checkpoint: Path | None, report: Report = silent, *, size: int = 25
) -> Iterator[Iterator[int]]:
    """Yields the steps from 0 to ``total`` that are still to do, ``size`` at a time.

    For optimisations that are counted in steps: each range is an epoch of `epochs`, so the body appends its figures
    once a range, after which the state is reported and saved; how far in a range it is, `Resumable.steps` reports.
    """
    for index in epochs(what, -(-total // size), state, checkpoint, report):
        steps = range(index * size, min((index + 1) * size, total))
        yield state.steps(steps, len(steps))
