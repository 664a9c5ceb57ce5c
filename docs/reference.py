"""The API reference: when MkDocs builds, a page for every public module of splitleak, from its docstrings."""

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).parents[1] / "splitleak"
SKIPPED = {"__main__", "pb"}


def modules(folder: Path) -> dict[str, Any]:
    """The public modules below a package: dotted name of each, those of a subpackage in a tree of their own."""
    tree: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        if path.stem in SKIPPED or (path.stem.startswith("_") and path.stem != "__init__"):
            continue
        dotted = ".".join(("splitleak", *path.relative_to(PACKAGE).with_suffix("").parts))
        if (path / "__init__.py").is_file():
            tree[path.name] = modules(path)
        elif path.suffix == ".py" and path.read_text(encoding="utf-8").strip():
            tree[path.stem] = dotted.removesuffix(".__init__")
    return tree


def pages(tree: dict[str, Any]) -> list[Any]:
    """The tree as MkDocs writes navigation, an overview first."""
    ordered = sorted(tree.items(), key=lambda entry: (entry[0] != "__init__", isinstance(entry[1], dict), entry[0]))
    return [
        {name: pages(part)} if isinstance(part, dict) else (page(part) if name == "__init__" else {name: page(part)})
        for name, part in ordered
    ]


def page(dotted: str) -> str:
    """Where the page of a module is."""
    return f"reference/{dotted}.md"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the reference at the end of the navigation."""
    config.nav = [*(config.nav or []), {"API reference": pages(modules(PACKAGE))}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Makes the pages."""

    def add(tree: dict[str, Any]) -> None:
        for part in tree.values():
            if isinstance(part, dict):
                add(part)
            else:
                files.append(File.generated(config, page(part), content=f"# {part}\n\n::: {part}\n"))

    add(modules(PACKAGE))
    return files
