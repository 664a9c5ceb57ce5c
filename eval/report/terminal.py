"""Results as one table for the terminal: a line per measured cell, with its latency."""

from collections.abc import Mapping, Sequence

from splitleak.eval.latency.table import quantile_text
from splitleak.eval.record.schema import Record, Score
from splitleak.eval.report.results import Results

_TIMES = ("edge_ms", "wire_ms", "cloud_ms", "total_ms")
LEGEND = (
    "MSE, SSIM, PSNR of what the attacker rebuilt: mean ± standard deviation over victims (high MSE, low SSIM: "
    "better protected). Latencies: p50 / p95 of one image in flight; edge = encode + serialise, wire = network, "
    "cloud = queue + compute."
)


def columns(results: Results) -> tuple[str, ...]:
    """The columns of `rows`, with the attack if there are several."""
    times = tuple(f"{name.removesuffix('_ms')} ms" for name in _TIMES)
    return ("target", *_attack(results), "accuracy %", "MSE", "SSIM", "PSNR dB", *times, "bytes/image", "queries")


def rows(results: Results) -> list[tuple[str, ...]]:
    """One row per record of victims; latencies are ``-`` if not measured for the target."""
    return [
        (
            cell.row.label,
            *(record.attack.name for _ in _attack(results)),
            f"{100 * record.target.accuracy:.1f}",
            *_scores(record),
            *_quantiles(cell.latency),
            "-" if record.wire is None else f"{record.wire.bytes_per_image:.0f}",
            str(record.threat_model.queries),
        )
        for cell, record in results.records
    ]


def _attack(results: Results) -> tuple[str, ...]:
    return ("attack",) if len({record.attack.name for _, record in results.records}) > 1 else ()


def _scores(record: Record) -> list[str]:
    return [_spread(record.scores.get(name), digits) for name, digits in (("mse", 4), ("ssim", 3), ("psnr", 2))]


def _spread(score: Score | None, digits: int) -> str:
    if score is None:
        return "-"
    return f"{score.mean:.{digits}f}" + ("" if score.std is None else f" ± {score.std:.{digits}f}")


def _quantiles(latency: Mapping[str, Mapping[str, float | None]] | None) -> Sequence[str]:
    return ["-" if latency is None else quantile_text(latency[part], ("p50", "p95")) for part in _TIMES]
