"""Guests of a kernel with xps_bpf have our ip: it loads, replaces, shows and detaches programs, and says why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.command import run
from tests.e2e.conftest import Project

QUEUES = """#define SEC(name) __attribute__((section(name), used))
SEC("prog") int queue_zero(void *skb) { return 0; }
SEC("one") int queue_one(void *skb) { return 1; }
SEC("two") int queue_two(void *skb) { return 2; }
char copying[] SEC("license") = "GPL";
"""

PINNED = """#define SEC(name) __attribute__((section(name), used))
SEC("socket") int pinned_one(void *skb) { return 1; }
char copying[] SEC("license") = "GPL";
"""

IN_GUEST = """
import ctypes
import json
import os
import struct
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
QUEUES = str(HERE / "queues.o")
BPF, OBJ_GET, LINK_CREATE, ATTACH_TYPE = 321, 7, 28, 62


def ip(*words, status=0):
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == status, done
    return done.stdout + done.stderr


def shown(name="d0"):
    return json.loads(ip("-j", "link", "show", name))[0].get("xps")


def bpf(command, attr):
    buffer = ctypes.create_string_buffer(attr, len(attr))
    fd = ctypes.CDLL(None, use_errno=True).syscall(BPF, command, buffer, len(attr))
    assert fd >= 0, os.strerror(ctypes.get_errno())
    return fd


@pytest.fixture(autouse=True)
def d0():
    ip("link", "add", "d0", "numtxqueues", "4", "type", "dummy")
    yield
    ip("link", "delete", "d0")


@pytest.fixture
def pin(request):
    path = Path("/sys/fs/bpf", request.node.name)
    subprocess.run(["bpftool", "prog", "load", HERE / "pinned.o", path, "type", "socket"], check=True)
    yield path
    path.unlink()


def test_help():
    assert "[ xps { off |" in ip("link", "help", status=255)


def test_object():
    ip("link", "set", "dev", "d0", "xps", "obj", QUEUES, "sec", "one")
    first = shown()
    prog = first.pop("prog")
    assert first == {"attached": "netlink", "count": 1}
    assert prog["name"] == "queue_one" and len(prog["tag"]) == 16
    assert f"mtu 1500 xps/id:{prog['id']} qdisc" in ip("link", "show", "d0")
    details = ip("-d", "link", "show", "d0")
    assert f"prog/xps id {prog['id']} name queue_one tag {prog['tag']} " in details
    assert " attached netlink count 1 " in details

    ip("link", "set", "dev", "d0", "xps", "obj", QUEUES, "sec", "two")
    assert shown()["prog"]["name"] == "queue_two"
    ip("link", "set", "dev", "d0", "xps", "object", QUEUES)
    assert shown()["prog"]["name"] == "queue_zero"


@pytest.mark.parametrize("word", ["off", "none"])
def test_off(word):
    ip("link", "set", "dev", "d0", "xps", "obj", QUEUES, "sec", "one")
    ip("link", "set", "dev", "d0", "xps", word, "mtu", "1400")
    assert shown() is None
    assert "xps" not in ip("-d", "link", "show", "d0")
    ip("link", "set", "dev", "d0", "xps", word)


def test_pinned(pin):
    ip("link", "set", "dev", "d0", "xps", "pinned", str(pin))
    assert shown()["prog"]["name"] == "pinned_one"


def test_from_the_beginning():
    ip("link", "add", "d1", "numtxqueues", "4", "xps", "obj", QUEUES, "sec", "one", "type", "dummy")
    assert shown("d1")["prog"]["name"] == "queue_one"
    ip("link", "delete", "d1")


def test_link(pin):
    name = ctypes.create_string_buffer(bytes(pin) + bytes(1))
    program = bpf(OBJ_GET, struct.pack("=QII", ctypes.addressof(name), 0, 0))
    index = int(Path("/sys/class/net/d0/ifindex").read_text())
    link = bpf(LINK_CREATE, struct.pack("=IIIIIIQ", program, index, ATTACH_TYPE, 0, 0, 0, 0))
    found = shown()
    assert (found["attached"], found["prog"]["name"]) == ("link", "pinned_one")
    assert f" xps/id:{found['prog']['id']} link qdisc" in ip("link", "show", "d0")
    assert " attached link count 1 " in ip("-d", "link", "show", "d0")
    assert "BPF links" in ip("link", "set", "dev", "d0", "xps", "off", status=2)
    os.close(link)
    os.close(program)


def test_refusals():
    assert "queue" in ip("link", "set", "dev", "lo", "xps", "obj", QUEUES, "sec", "one", status=2)
    assert "doesn't contain sec nine" in ip("link", "set", "dev", "d0", "xps", "obj", QUEUES, "sec", "nine", status=255)
    assert "No such file" in ip("link", "set", "dev", "d0", "xps", "pinned", "/sys/fs/bpf/none", status=255)
    assert shown() is None
"""


@pytest.mark.parametrize("root", ["image", "virtme"])
def test_ip_of_ours(project: Project, root: str) -> None:
    for name, text in (("queues", QUEUES), ("pinned", PINNED)):
        source = Path(project.folder, f"{name}.c")
        source.write_text(text)
        run(["clang", "-O2", "-target", "bpf", "-c", source, "-o", source.with_suffix(".o")], limit=60)
    project.write("test_ip.py", IN_GUEST)
    status, output = project.run("--root", root, "test_ip.py")
    outcomes = project.outcomes()
    assert set(outcomes.values()) == {"passed"}, output
    assert len(outcomes) == 8
    assert status == 0
