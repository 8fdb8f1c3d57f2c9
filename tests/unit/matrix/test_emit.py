"""The CI files: what the services' published schemas say of them, and that ours are as the matrix is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.errors import UserError
from harness.matrix.definition import Definition
from harness.matrix.emit import Service, emit
from harness.matrix.verb import chosen, emitted
from harness.paths import project_root

SCHEMAS: dict[Service, list[str]] = {
    "github": ["--builtin-schema", "vendor.github-workflows"],
    "gitlab": ["--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci"],
}
SERVICES: list[Service] = ["github", "gitlab"]


def check(service: Service, path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", *SCHEMAS[service], str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("service", SERVICES)
def test_ours_is_as_the_matrix_is(service: Service) -> None:
    ours = project_root() / "ci" / f"matrix.{service}.yml"
    made = emitted(str(project_root() / "ci" / "matrix.toml"), service, only=[])
    assert ours.read_text() == made, f"make it anew: kproof matrix --emit {service} > {ours}"


@pytest.mark.parametrize("service", SERVICES)
def test_the_service_takes_it(service: Service, tmp_path: Path) -> None:
    ours = project_root() / "ci" / f"matrix.{service}.yml"
    done = check(service, ours)
    assert done.returncode == 0, done.stdout
    # and it would not take just anything
    made: Any = yaml.safe_load(ours.read_text())
    job = made["jobs"]["cell"] if service == "github" else made["cell"]
    job["steps" if service == "github" else "script"] = {"no": "such thing"}
    broken = tmp_path / "broken.yml"
    broken.write_text(yaml.safe_dump(made))
    assert check(service, broken).returncode != 0


@pytest.mark.parametrize("service", SERVICES)
def test_each_cell_is_a_job_and_all_are_merged(
    service: Service, define: Callable[[str], Definition], tmp_path: Path
) -> None:
    definition = define('kernel = ["debian:6.12", "image:debian:6.1"]')
    text = emit(service, chosen(definition, tmp_path, []), file=definition.path, root=tmp_path)
    made: Any = yaml.safe_load(text)
    if service == "github":
        cells = made["jobs"]["cell"]["strategy"]["matrix"]["cell"]
        report = made["jobs"]["report"]
        assert report["if"] == "always()"
    else:
        cells = made["cell"]["parallel"]["matrix"][0]["CELL"]
        report = made["report"]
        assert report["when"] == "always"
    assert cells == ["debian-6.12", "image-debian-6.1"]
    assert "kproof matrix matrix.toml --merge" in str(report)
    assert "&id" not in text


def test_a_kernel_of_this_machine_is_in_no_service(define: Callable[[str], Definition], tmp_path: Path) -> None:
    definition = define('kernel = ["kernel:abc"]')
    with pytest.raises(UserError, match="this machine's store"):
        emit("github", chosen(definition, tmp_path, []), file=definition.path, root=tmp_path)
