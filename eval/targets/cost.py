"""Cost of a split model: parameters, MACs and inference time of both halves, and parameters and MACs of the decoder."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from splitleak.artifacts import provenance
from splitleak.defenses.artifact import load_cloud, load_edge
from splitleak.defenses.stack import Stack
from splitleak.defenses.training import TargetConfig, assemble
from splitleak.eval.report.published import load as load_published
from splitleak.logs import Report, silent
from splitleak.models.counting import COUNTING_RULES, ModuleCount, Rule, count_macs
from splitleak.models.decoder import ResidualBlock, decoder_for
from splitleak.models.export import OnnxModule, check_parity, export_onnx

COLUMNS = ("part", "parameters", "M MACs", "M MACs (ptflops)", "torch ms", "ONNX ms", "ONNX / torch")
PUBLISHED_COLUMNS = ("method", "half", "parameters", "MACs", "time")
MILLION = 1e6


@dataclass(frozen=True)
class Design:
    """The measured model: both halves in eval mode on the CPU; of the defenses only those that act on the wire."""

    name: str
    image_shape: tuple[int, int, int]
    feature_shape: tuple[int, ...]
    encoder: nn.Module
    stack: Stack
    head: nn.Module


def from_artifact(folder: Path) -> Design:
    """The trained model that ``splitleak train`` wrote to ``folder``.

    Raises:
        FileNotFoundError: There is no artifact.
    """
    cpu = torch.device("cpu")
    edge, cloud = load_edge(folder / "edge", cpu, seed=0), load_cloud(folder / "cloud", cpu)
    return Design(edge.name, edge.input_shape, edge.feature_shape, edge.encoder, edge.stack, cloud.head)


def from_config(config: TargetConfig, name: str) -> Design:
    """The model of ``config``, untrained and finished: the cost does not depend on the weights."""
    model, training_stack = assemble(config, "untrained")
    training_stack.finish(model)
    stack = Stack.build(config.defenses, on_wire_only=True)
    stack.seed(config.seed, torch.device("cpu"))
    shape = model.feature_shape
    encoder, head = (half.to(memory_format=torch.channels_last).eval() for half in (model.encoder, model.head))
    return Design(name, model.image_shape, shape, encoder, stack.eval(), head)


def measure(design: Design, *, batch: int = 128, repeats: int = 20, report: Report = silent) -> dict[str, Any]:
    """Counts parameters and MACs by every rule of `COUNTING_RULES`, and measures inference times of random images.

    The halves are exported to ONNX, checked for parity with torch on the same batch, and then timed in alternation with
    torch, after one warm-up round, with torch's number of threads. The edge's time includes the defenses on the wire;
    they draw random numbers, so they run in torch after the ONNX encoder. The decoder is N8C64, see `decoder_for`.

    Args:
        design: The model.
        batch: Images per batch.
        repeats: Timed rounds.
        report: Progress callback.

    Returns:
        ``{name, shapes, wire_bytes, counts: {part: {rule: {parameters, macs}}}, times: {half: {torch_ms, onnx_ms,
        ratio}}, parity, rules, batch, repeats, threads, provenance}``: medians, milliseconds a batch; ``ratio`` is the
        median of ONNX over torch in the same round.
    """
    with TemporaryDirectory() as folder:
        times, parity = _times(design, batch, repeats, Path(folder), report)
    return {
        "name": design.name,
        "image_shape": design.image_shape,
        "feature_shape": design.feature_shape,
        "wire_bytes": 4 * int(np.prod(design.feature_shape)),
        "counts": counts(design),
        "times": times,
        "parity": parity,
        "rules": COUNTING_RULES,
        "batch": batch,
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        "provenance": provenance(),
    }


def counts(design: Design) -> dict[str, Any]:
    """Parameters and MACs of edge, cloud, both, and the decoder N8C64, by rule.

    Returns:
        ``{part: {rule: {parameters, macs}}}``.
    """

    def by_rule(module: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
        # The published decoder's blocks use functional ReLUs.
        rules: tuple[Rule, ...] = ("macs", "ptflops")
        by_name = {rule: count_macs(module, shape, rule, functional=(ResidualBlock,)) for rule in rules}
        return {rule: _totals(counted) for rule, counted in by_name.items()}

    halves = {
        "edge": by_rule(design.encoder, design.image_shape),
        "cloud": by_rule(design.head, design.feature_shape),
    }
    whole = {
        rule: {figure: sum(half[rule][figure] for half in halves.values()) for figure in ("parameters", "macs")}
        for rule in COUNTING_RULES
    }
    with torch.device("meta"):
        decoder = decoder_for(design.feature_shape, design.image_shape)
    return {**halves, "whole": whole, "decoder": by_rule(decoder, design.feature_shape)}


def _totals(counted: ModuleCount) -> dict[str, int]:
    return {"parameters": counted.parameters, "macs": counted.macs}


def _times(
    design: Design, batch: int, repeats: int, folder: Path, report: Report
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    draw = np.random.default_rng(0)
    images = draw.random((batch, *design.image_shape), dtype=np.float32)
    features = draw.random((batch, *design.feature_shape), dtype=np.float32)
    exported, parity = {}, {}
    for half, module, rows in (("edge", design.encoder, images), ("cloud", design.head, features)):
        path = folder / f"{half}.onnx"
        export_onnx(module, rows.shape[1:], path)
        exported[half] = OnnxModule(path, torch.get_num_threads())
        parity[half] = check_parity(module, exported[half], rows)

    def laid_out(rows: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(rows).contiguous(memory_format=torch.channels_last)

    runs: dict[str, dict[str, Callable[[], object]]] = {
        "edge": {
            "torch_ms": lambda: design.stack(design.encoder(laid_out(images))),
            "onnx_ms": lambda: design.stack(torch.from_numpy(exported["edge"](images))),
        },
        "cloud": {
            "torch_ms": lambda: design.head(torch.from_numpy(features)),
            "onnx_ms": lambda: exported["cloud"](features),
        },
    }
    samples: dict[str, dict[str, list[float]]] = {half: {name: [] for name in timed} for half, timed in runs.items()}
    with torch.inference_mode():
        for round_index in range(repeats + 1):
            for half, timed in runs.items():
                for name, run in timed.items():
                    start = time.perf_counter()
                    run()
                    if round_index:
                        samples[half][name].append(1000 * (time.perf_counter() - start))
            report("rounds", round_index, repeats, {})
    times = {
        half: {name: statistics.median(values) for name, values in timed.items()} for half, timed in samples.items()
    }
    for half, values in samples.items():
        ratios = [onnx / torch_ms for onnx, torch_ms in zip(values["onnx_ms"], values["torch_ms"], strict=True)]
        times[half]["ratio"] = statistics.median(ratios)
    return times, parity


def rows(document: dict[str, Any]) -> list[tuple[str, ...]]:
    """The result of `measure` as table rows of `COLUMNS`, one per part; ``-`` for missing values."""
    table = []
    for part, counted in document["counts"].items():
        times = document["times"].get(part)
        table.append(
            (
                part,
                f"{counted['macs']['parameters']:,}",
                *(f"{counted[rule]['macs'] / MILLION:.3f}" for rule in COUNTING_RULES),
                *(f"{times[name]:.2f}" if times else "-" for name in ("torch_ms", "onnx_ms", "ratio")),
            )
        )
    return table


def published() -> tuple[list[tuple[str, ...]], list[str]]:
    """Table S6 as printed, rows of `PUBLISHED_COLUMNS`, one per half; and notes on its remarks and misprints."""
    table = load_published("cem_s6")
    rows, notes = [], [*table.remarks]
    for row in table.rows:
        for half in ("edge", "cloud"):
            cells = []
            for column in (column for column in table.columns if column.half == half):
                figure = table.figure(row.method, row.plus, column.key)
                assert figure is not None
                cells.append(f"{figure.printed:g} {column.unit}{'†' if figure.reason else ''}")
                if figure.reason:
                    name = f"{row.method}, {half}, {column.metric}"
                    notes.append(f"† {name}: must be {figure.value:g} {column.unit}; {figure.reason}.")
            rows.append((row.method, half, *cells))
    return rows, notes
