"""Judging: what an attack rebuilt is measured against the truth, and recorded."""

from typing import TYPE_CHECKING

from splitleak.tables import Imported, Table

if TYPE_CHECKING:
    from splitleak.eval.record.metrics import Metric

MEASURES: Table["Metric"] = Table(
    "measure", {}, group="splitleak.measures", base=Imported("splitleak.eval.record.metrics:Metric")
)
"""The metrics of plug-ins; ours are `metrics.METRICS`."""
