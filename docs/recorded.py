"""When MkDocs builds, the page of every recorded result: the report that a run has, rendered again from its records."""

import tempfile
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from splitleak.eval.report.report import write_report

RESULTS = Path(__file__).parent / "results"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds ``results/<name>/page.html`` for each folder with a plan and records."""
    for folder in sorted(path.parent for path in RESULTS.glob("*/campaign.json")):
        with tempfile.TemporaryDirectory() as scratch:
            page = write_report(folder, Path(scratch) / folder.name).read_text(encoding="utf-8")
        files.append(File.generated(config, f"results/{folder.name}/page.html", content=page))
    return files
