"""A kernel of the distribution: its modules, the project on a disk, restored guests, and the host's own root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.guest.snapshot import discard, snapshots_of
from harness.kernel.obtain import obtain
from harness.model import Kernel, Request
from tests.e2e.conftest import Project

IN_THE_GUEST = """
import os, pathlib, subprocess

def call(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout

def test_the_kernel_loads_what_it_is_asked_for():
    assert "veth" not in call("lsmod")
    call("ip", "link", "add", "one", "type", "veth", "peer", "two")
    assert "veth" in call("lsmod")
    call("ip", "link", "del", "one")

def test_a_module_brings_no_devices_of_its_own():
    call("ip", "link", "add", "mine", "type", "dummy")
    assert not pathlib.Path("/sys/class/net/dummy0").exists()
    call("ip", "link", "del", "mine")

def test_its_configuration_is_there():
    assert "CONFIG_VETH=m" in pathlib.Path("/lib/modules", os.uname().release, "config").read_text().splitlines()

def test_the_project_cannot_be_written():
    assert os.statvfs(os.path.dirname(__file__)).f_flag & os.ST_RDONLY
"""


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    return obtain(Request(source="image:debian:6.12"))


@pytest.fixture
def project(project: Project) -> Iterator[Project]:
    others = set(snapshots_of(project.kernel.identity))
    project.options = ("-n", "1", "--cpus", "1")
    yield project
    for path in set(snapshots_of(project.kernel.identity)) - others:
        discard(path)


def test_guests_have_modules_and_see_each_edit(project: Project) -> None:
    project.write("test_it.py", IN_THE_GUEST)
    status, output = project.run("test_it.py")
    assert status == 0, output
    assert len(project.outcomes()) == 4
    # the disk is another one now, under a guest that was saved with the first
    project.write("test_it.py", "def test_edited(): pass\n")
    status, output = project.run("test_it.py")
    assert status == 0, output
    assert project.outcomes() == {"test_edited": "passed"}
    assert "booting once" not in output


@pytest.mark.skipif(os.geteuid() != 0, reason="a root is shared without 9p by root only")
def test_the_hosts_root_is_safe(project: Project) -> None:
    target = Path(project.folder, "written")
    status, output = project.call(
        *("exec", "--root", "virtme", f"kernel:{project.kernel.identity}", "--"),
        *("sh", "-c", f"uname -r; mount -o remount,rw /; touch {target} || echo refused"),
    )
    assert (project.kernel.release in output, "refused" in output, target.exists()) == (True, True, False), output
    assert status == 0
