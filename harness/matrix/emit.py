"""The CI file of a service: each cell a job of its own with its kernels cached, and one report of all at the end."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from harness.errors import UserError
from harness.matrix.cells import Cell

Service = Literal["github", "gitlab"]

IMAGE = "debian:12"
"""Of the containers: kernels come from Debian's archive."""
CACHE = ".kproof"
"""As from the project's folder, where every command runs: services name that folder differently in containers."""
KEPT = ("kernels", "downloads", "sources", "memo", "outcomes")
"""Folders of the cache that save a job its build and its download, and tests that are known."""
MINUTES = 120
"""That a job may take: a build with a debug flavour, and all selftests, without KVM."""
SETUP = (
    "apt-get update -q",
    "apt-get install -q -y --no-install-recommends ca-certificates git make",
    "make setup",
)
DEFINITIONS = ("kconfigs", "patches")
"""What kernels are built of."""


def emit(service: Service, cells: Sequence[Cell], *, file: Path, root: Path) -> str:
    """The file's text. Raises UserError for a cell that only this machine can run."""
    for cell in cells:
        if cell.source.startswith("kernel:"):
            raise UserError(f"the cell {cell.id} is a kernel of this machine's store, which no CI service has")
    name = str(file.absolute().relative_to(root))
    ids = [cell.id for cell in cells]
    made = _github(ids, name) if service == "github" else _gitlab(ids, name)
    head = f"# Made by `kproof matrix {shlex.quote(name)} --emit {service}`: edit that file, and make this one anew.\n"
    return head + _yaml(made)


def _yaml(value: Any) -> str:
    """Block style: several lines as such, nothing shared by anchors, which not every service reads."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, data: str) -> yaml.Node:
        return dumper.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)

    Dumper.add_representer(str, text)
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, width=1000)


def _command(file: str, cell: str) -> str:
    return f'.venv/bin/kproof matrix {shlex.quote(file)} --only "{cell}" --results "results/{cell}"'


def _merge(file: str, folders: str, results: str) -> str:
    return f".venv/bin/kproof matrix {shlex.quote(file)} --merge {folders} --results {results}"


def _github(ids: Sequence[str], file: str) -> dict[str, Any]:
    setup = {"name": "Set up", "run": "\n".join(SETUP) + "\n"}
    hashed = ", ".join(f"'{folder}/**'" for folder in DEFINITIONS)
    cell = "${{ matrix.cell }}"
    return {
        "name": "kproof matrix",
        "on": {"push": {"branches": ["main"]}, "pull_request": {}, "workflow_dispatch": {}},
        "permissions": {"contents": "read"},
        "env": {"KPROOF_CACHE": CACHE},
        "jobs": {
            "cell": {
                "name": cell,
                "runs-on": "ubuntu-latest",
                "container": IMAGE,
                "timeout-minutes": MINUTES,
                "strategy": {"fail-fast": False, "matrix": {"cell": list(ids)}},
                "steps": [
                    {"uses": "actions/checkout@v4"},
                    {
                        "uses": "actions/cache@v4",
                        "with": {
                            "path": "\n".join(f"{CACHE}/{folder}" for folder in KEPT) + "\n",
                            "key": f"kproof-{cell}-${{{{ hashFiles({hashed}) }}}}-${{{{ github.run_id }}}}",
                            "restore-keys": f"kproof-{cell}-${{{{ hashFiles({hashed}) }}}}-\nkproof-{cell}-\n",
                        },
                    },
                    setup,
                    {"name": "Run the cell", "env": {"CELL": cell}, "run": _command(file, "$CELL")},
                    {
                        "uses": "actions/upload-artifact@v4",
                        "if": "always()",
                        "with": {"name": f"cell-{cell}", "path": f"results/{cell}"},
                    },
                ],
            },
            "report": {
                "needs": "cell",
                "if": "always()",
                "runs-on": "ubuntu-latest",
                "container": IMAGE,
                "steps": [
                    {"uses": "actions/checkout@v4"},
                    setup,
                    {"uses": "actions/download-artifact@v4", "with": {"pattern": "cell-*", "path": "results/cells"}},
                    {"name": "Merge", "run": _merge(file, "results/cells/*", "results/all")},
                    {
                        "uses": "actions/upload-artifact@v4",
                        "if": "always()",
                        "with": {"name": "matrix", "path": "results/all"},
                    },
                ],
            },
        },
    }


def _gitlab(ids: Sequence[str], file: str) -> dict[str, Any]:
    return {
        "stages": ["cells", "report"],
        "default": {"image": IMAGE, "before_script": list(SETUP)},
        "variables": {"KPROOF_CACHE": CACHE},
        "cell": {
            "stage": "cells",
            "timeout": f"{MINUTES} minutes",
            "parallel": {"matrix": [{"CELL": list(ids)}]},
            "cache": {
                "key": "kproof-$CELL",
                "when": "always",
                "paths": [f"{CACHE}/{folder}" for folder in KEPT],
            },
            "script": [_command(file, "$CELL")],
            "artifacts": {
                "when": "always",
                "paths": ["results/$CELL"],
                "reports": {"junit": "results/$CELL/junit.xml"},
            },
        },
        "report": {
            "stage": "report",
            "when": "always",
            "needs": [{"job": "cell", "artifacts": True}],
            "script": [_merge(file, "results/*", "all")],
            "artifacts": {"when": "always", "paths": ["all"], "expose_as": "kproof matrix"},
        },
    }
