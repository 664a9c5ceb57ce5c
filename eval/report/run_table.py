"""A run's records as one table, for the terminal and for the report."""

from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = (
    "target",
    "accuracy %",
    "MSE",
    "SSIM",
    "PSNR dB",
    "edge ms",
    "wire ms",
    "cloud ms",
    "total ms",
    "bytes/image",
    "queries",
)
LEGEND = (
    "MSE, SSIM, PSNR of what the attacker rebuilt: mean ± standard deviation over victims (high MSE, low SSIM: "
    "better protected). Latencies: p50 / p95 of one image in flight; edge = encode + serialise, wire = network, "
    "cloud = queue + compute."
)


def rows(records: Sequence[Mapping[str, Any]], latency: Mapping[str, Any] | None) -> list[tuple[str, ...]]:
    """One row a record, in `COLUMNS`; latencies are ``-`` where the run measured none for that target."""
    return [_row(record, (latency or {}).get("targets", {}).get(record["target"]["name"])) for record in records]


def _row(record: Mapping[str, Any], latency: Mapping[str, Any] | None) -> tuple[str, ...]:
    scores = record["score"]

    def spread(metric: str, digits: int) -> str:
        return f"{scores[metric]['mean']:.{digits}f} ± {scores[metric]['std']:.{digits}f}"

    def quantiles(part: str) -> str:
        return quantile_text(latency[part], ("p50", "p95")) if latency else "-"

    return (
        str(record["target"]["name"]),
        f"{100 * record['target']['accuracy']:.1f}",
        spread("mse", 4),
        spread("ssim", 3),
        spread("psnr", 2),
        *(quantiles(part) for part in ("edge_ms", "wire_ms", "cloud_ms", "total_ms")),
        f"{record['wire']['bytes_per_image']:.0f}",
        str(record["attack"]["queries"]),
    )


def quantile_text(quantiles: Mapping[str, float | None], shown: Sequence[str]) -> str:
    """Milliseconds, ``n/a`` where the samples do not bear a quantile.

    >>> quantile_text({"p50": 1.5, "p99": None}, ("p50", "p99"))
    '1.50 / n/a'
    """
    return " / ".join("n/a" if (value := quantiles[name]) is None else f"{value:.2f}" for name in shown)
