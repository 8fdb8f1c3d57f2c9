"""``ip link set dev D xps …`` and what ``ip link show`` tells: iproute2 with patches/iproute2.

Source: the RFC's second patch, whose ``off`` was refused and whose query was never called.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from selftests.lib import bpf, libbpf, xps
from selftests.lib.xps import Attached, State
from selftests.xps_bpf.conftest import Device, Load, await_release

pytestmark = [pytest.mark.feature("xps_bpf"), pytest.mark.feature("ip_xps")]

OBJECT = libbpf.OBJECTS / "xps.bpf.o"


def ip(device: Device, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ip in the device's namespace."""
    # a child begins in the namespace of the thread that starts it
    with device.namespace.entered():
        return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)


def done(device: Device, *arguments: str) -> str:
    """Run ip, which must succeed: its output."""
    result = ip(device, *arguments)
    assert result.returncode == 0, f"ip {' '.join(arguments)}: {result.stderr or result.stdout}"
    return result.stdout


def shown(device: Device) -> dict[str, Any] | None:
    """What ``ip -d -j link show`` tells of the program."""
    (link,) = json.loads(done(device, "-d", "-j", "link", "show", "dev", "x0"))
    found: dict[str, Any] | None = link.get("xps")
    return found


@pytest.mark.parametrize("off", ["off", "none"])
@pytest.mark.parametrize("queue", [0, 1, 2])
def test_object_is_loaded_and_unloaded(device: Device, queue: int, off: str) -> None:
    """``xps obj F sec S`` loads a section, which decides; ``xps off`` and ``xps none`` unload it, and it is free."""
    done(device, "link", "set", "dev", "x0", "xps", "obj", str(OBJECT), "sec", f"queue{queue}")
    assert device.queue() == queue
    state = xps.state(device.link)
    assert state is not None
    assert (state.attached, state.count) == (Attached.NETLINK, 1)
    done(device, "link", "set", "dev", "x0", "xps", off)
    assert (device.queue(), xps.state(device.link)) == (3, None)
    await_release(state.prog_id)


def test_another_object_replaces_the_first(device: Device) -> None:
    """``xps obj`` where a program is attached puts the new one in its place, as in the RFC's transcript."""
    for queue in (1, 2):
        done(device, "link", "set", "dev", "x0", "xps", "obj", str(OBJECT), "sec", f"queue{queue}")
        assert device.queue() == queue
    done(device, "link", "set", "dev", "x0", "xps", "off")


def test_off_where_nothing_is_attached(device: Device) -> None:
    """It is fine, as ``xdp off`` is."""
    done(device, "link", "set", "dev", "x0", "xps", "off")
    assert device.queue() == 3


def test_pinned_program(device: Device, load: Load, cleanup: ExitStack) -> None:
    """``xps pinned P``: a program by its name in bpffs."""
    path = "/sys/fs/bpf/xps-program"
    program = load(1)
    bpf.pin(program.fd, path)
    cleanup.callback(os.unlink, path)
    done(device, "link", "set", "dev", "x0", "xps", "pinned", path)
    assert device.queue() == 1
    assert xps.state(device.link) == State(Attached.NETLINK, program.id, 1)
    done(device, "link", "set", "dev", "x0", "xps", "off")


@pytest.mark.parametrize("way", ["netlink", "link"])
def test_show(device: Device, load: Load, cleanup: ExitStack, way: str) -> None:
    """``ip link show``: id, and whether by link; -d adds the tag; nothing where nothing is attached."""
    assert " xps" not in done(device, "link", "show", "dev", "x0")
    assert shown(device) is None
    program = load(1)
    if way == "netlink":
        xps.set_program(device.link, program.fd)
    else:
        cleanup.enter_context(xps.link(program, device.link))
    text = done(device, "link", "show", "dev", "x0")
    assert re.search(rf"\bxps/id:{program.id}{' link' if way == 'link' else ''}\b", text), text
    assert (" link" in text.partition("xps/id:")[2].partition("\n")[0]) == (way == "link"), text
    tag = bpf.object_info(program.fd, 232)[8:16].hex()
    assert f"tag {tag}" in done(device, "-d", "link", "show", "dev", "x0")
    told = shown(device)
    assert told is not None
    assert {key: told["prog"][key] for key in ("id", "tag", "jited")} == {"id": program.id, "tag": tag, "jited": 1}
    assert (told["attached"], told["count"]) == (way, 1)


@pytest.mark.feature("xps_bpf_mprog")
def test_show_tells_how_many(device: Device, load: Load, cleanup: ExitStack) -> None:
    """Three links: the program that runs first, and the number."""
    loaded = [load(-1) for _ in range(3)]
    for program in loaded:
        cleanup.enter_context(xps.link(program, device.link))
    told = shown(device)
    assert told is not None
    assert (told["prog"]["id"], told["attached"], told["count"]) == (loaded[0].id, "link", 3)


def test_kernels_refusal_is_told(device: Device, load: Load, cleanup: ExitStack) -> None:
    """Exit status 2 and the kernel's own words: a link holds the device, a device has one queue."""
    single = device.namespace.rtnl.add_dummy("s0")
    cleanup.enter_context(xps.link(load(1), device.link))
    for name, words in ((device.link.name, "BPF links hold"), (single.name, "one transmit queue only")):
        result = ip(device, "link", "set", "dev", name, "xps", "obj", str(OBJECT), "sec", "queue1")
        assert (result.returncode, words in result.stderr) == (2, True), result.stderr
    assert device.queue() == 1


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["obj", "/nowhere.o"], id="no-such-object"),
        pytest.param(["obj", str(OBJECT), "sec", "nowhere"], id="no-such-section"),
        pytest.param(["pinned", "/sys/fs/bpf/nowhere"], id="no-such-pin"),
        pytest.param([], id="nothing"),
        pytest.param(["sideways"], id="no-such-word"),
    ],
)
def test_mistakes_are_refused(device: Device, arguments: list[str]) -> None:
    """ip fails with a message, and the device is as it was."""
    result = ip(device, "link", "set", "dev", "x0", "xps", *arguments)
    assert result.returncode != 0, "ip succeeded"
    assert result.stderr.strip(), "ip said nothing"
    assert (device.queue(), xps.state(device.link)) == (3, None)
    assert Path(OBJECT).exists()
