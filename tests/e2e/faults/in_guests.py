"""The faults that a test provokes in its guest: what it does, and what must become of it.

Those of the kernel are real: LKDTM (drivers/misc/lkdtm) makes them, with one more of ours (lkdtm-softirq.patch).
"""

from __future__ import annotations

import json
import re
import signal
import xml.etree.ElementTree as ET
from typing import Any

from tests.e2e.faults.fault import Fault, FaultProject

PROVOKE = '''
"""How a test makes trouble."""
import contextlib, ctypes, os, pathlib, signal, time

DEBUGFS = pathlib.Path("/sys/kernel/debug")

def crash(kind):
    """A crash type of LKDTM (Documentation/fault-injection/provoke-crashes.rst)."""
    if not (DEBUGFS / "provoke-crash").exists():
        assert ctypes.CDLL(None).mount(b"none", str(DEBUGFS).encode(), b"debugfs", 0, None) == 0
    with open(DEBUGFS / "provoke-crash/DIRECT", "w") as direct:
        direct.write(kind)

def in_child(call, *arguments):
    """Call it in a process of its own; returns the signal that ended that."""
    pid = os.fork()
    if not pid:
        try:
            call(*arguments)
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(pid, 0)[1])

def sysctl(name, value):
    pathlib.Path("/proc/sys/kernel", name).write_text(str(value))

def eat_memory():
    hog = []
    while True:
        hog.append(b"x" * (1 << 20))

def ask_host(text):
    with open("/dev/console", "w") as console:
        console.write(f"fault: {text}\\n")

def channel_fds():
    """Descriptors of the virtio-serial ports in this process."""
    fds = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if "/vport" in os.readlink(f"/proc/self/fd/{name}"):
                fds.append(int(name))
    return fds

HOSTILE = bytes(range(256)) + b"]]></testcase><!-- &#0; \\x1b[31m \\xff\\xfe\\xed\\xa0\\x80 \\xef\\xbf\\xbe"
'''


def _names_the_panic(project: FaultProject, outcome: dict[str, Any]) -> None:
    assert "Call Trace:" in outcome["detail"]
    assert len(outcome["detail"].splitlines()) <= 205


def _is_the_last_of_its_guest(project: FaultProject, outcome: dict[str, Any]) -> None:
    """A kernel that has met an oops and lives on gets no other test."""
    outcomes = json.loads((project.latest / "run.json").read_text())["outcomes"]
    assert [other["nodeid"] for other in outcomes if other["guest"] == outcome["guest"]][-1] == outcome["nodeid"]


def _has_evidence(project: FaultProject, outcome: dict[str, Any]) -> None:
    """A hung guest was asked by all means: processors' and tasks' backtraces, registers, an NMI."""
    assert "RIP=" in outcome["detail"]
    assert "NMI: Not continuing" in outcome["detail"]


def _has_source_lines(project: FaultProject, outcome: dict[str, Any]) -> None:
    """What the debug information says of the place is what the kernel itself says in its heading."""
    heading = re.search(r"WARNING: .* at (drivers/misc/lkdtm/bugs\.c):(\d+) ", outcome["kernel_log"])
    assert heading
    (splat,) = outcome["splats"]
    assert splat["at"] == {"function": "lkdtm_WARNING", "file": heading[1], "line": int(heading[2]), "inlined": False}
    assert splat["frames"]
    assert [frame for frame in splat["frames"] if not frame["line"]] == []
    for text in (outcome["kernel_log"], outcome["detail"]):
        assert re.search(rf"RIP: 0010:lkdtm_WARNING\+\S+ {heading[1]}:{heading[2]}$", text, re.M)


def _keeps_hostile_bytes(project: FaultProject, outcome: dict[str, Any]) -> None:
    """They are in the JUnit, in a form that XML can write, and in run.json."""
    assert "]]></testcase><!-- &#0;" in outcome["detail"]
    junit = ET.parse(project.latest / "junit.xml").getroot()
    case = next(
        case for case in junit.iter("testcase") if case.get("file") == "test_hostile_bytes_in_the_output_of_a_test.py"
        and case.get("name") == "test_fault"
    )  # fmt: skip
    text = "".join(case.itertext())
    assert "]]></testcase><!-- &#0;" in text
    assert "\\x00\\x01" in text


def _flood_is_survived(project: FaultProject, outcome: dict[str, Any]) -> None:
    """All of it is there, nobody held it in memory, and its size is told."""
    console = project.latest / "guests" / outcome["guest"] / "console.log"
    assert console.stat().st_size > 100 << 20
    assert 10 < project.peak_mb < 150
    assert f"guest {outcome['guest']} has filled {console.stat().st_size >> 20} MB of the disk" in project.output
    assert (project.latest / "junit.xml").stat().st_size < 10 << 20


def _is_shortened(project: FaultProject, outcome: dict[str, Any]) -> None:
    assert "characters more]" in outcome["detail"]
    assert (project.latest / "junit.xml").stat().st_size < 10 << 20


IN_GUESTS = (
    Fault(
        "panic",
        'crash("PANIC")',
        ("crashed",),
        r"^Kernel panic - not syncing: dumptest$",
        check=_names_the_panic,
    ),
    Fault(
        "oops in a child of the test",
        'assert in_child(crash, "EXCEPTION")',
        ("failed",),
        r"^the kernel complained: BUG: kernel NULL pointer dereference in lkdtm_EXCEPTION$",
        check=_is_the_last_of_its_guest,
    ),
    Fault(
        "oops in the worker",
        'crash("EXCEPTION")',
        ("crashed",),
        r"^the guest's Python ended by signal \d+ \(BUG: kernel NULL pointer dereference.* in lkdtm_EXCEPTION\)$",
    ),
    Fault(
        "oops in softirq",
        'crash("EXCEPTION_SOFTIRQ")\ntime.sleep(30)',
        ("crashed",),
        r"Fatal exception in interrupt \(BUG: kernel NULL pointer dereference.* in softirq_exception\)$",
        check=_names_the_panic,
    ),
    Fault(
        "BUG_ON in a child, panic_on_oops=0",
        'sysctl("panic_on_oops", 0)\nassert in_child(crash, "BUG")',
        ("failed",),
        r"^the kernel complained: kernel BUG in lkdtm_BUG$",
        check=_is_the_last_of_its_guest,
    ),
    Fault(
        "BUG_ON in the worker, panic_on_oops=0",
        'sysctl("panic_on_oops", 0)\ncrash("BUG")',
        ("crashed",),
        r"^the guest's Python ended by signal \d+ \(kernel BUG at drivers/misc/lkdtm/bugs\.c:\d+! in lkdtm_BUG\)$",
        slow=True,
    ),
    Fault(
        "BUG_ON, panic_on_oops=1",
        'sysctl("panic_on_oops", 1)\ncrash("BUG")',
        ("crashed",),
        r"^Kernel panic - not syncing: Fatal exception \(kernel BUG at .* in lkdtm_BUG\)$",
        slow=True,
    ),
    Fault(
        "WARN_ON",
        'crash("WARNING")',
        ("failed",),
        r"^the kernel complained: WARNING in lkdtm_WARNING$",
        check=_has_source_lines,
    ),
    Fault(
        "soft lockup",
        'sysctl("watchdog_thresh", 1)\ncrash("SOFTLOCKUP")',
        ("hung",),
        r"^no end within \d+ s \(BUG: soft lockup in lkdtm_SOFTLOCKUP\)$",
        marks="@pytest.mark.timeout_s(6)",
        slow=True,
        check=_has_evidence,
    ),
    Fault(
        "hard lockup, interrupts off",
        'crash("HARDLOCKUP")',
        ("hung",),
        r"^no end within \d+ s \(in lkdtm_HARDLOCKUP\)$",
        marks="@pytest.mark.timeout_s(3)",
        check=_has_evidence,
    ),
    Fault(
        "deadlock of a spinlock",
        'crash("SPINLOCKUP")\ncrash("SPINLOCKUP")',
        ("hung",),
        # which jumps to the lock's function as its last act
        r"^no end within \d+ s \(in lkdtm_do_action\)$",
        marks="@pytest.mark.timeout_s(3)",
        slow=True,
        check=_has_evidence,
    ),
    Fault(
        "D state",
        'sysctl("hung_task_timeout_secs", 1)\ncrash("HUNG_TASK")',
        ("hung",),
        r"^no end within \d+ s \(INFO: task hung in lkdtm_HUNG_TASK\)$",
        marks="@pytest.mark.timeout_s(4)",
        check=_has_evidence,
    ),
    Fault(
        "soft lockup, the kernel's own limits",
        'crash("SOFTLOCKUP")',
        ("hung",),
        r"^no end within \d+ s \(BUG: soft lockup in lkdtm_SOFTLOCKUP\)$",
        slow=True,
        check=_has_evidence,
    ),
    Fault(
        "D state, the kernel's own limits",
        'crash("HUNG_TASK")',
        ("hung",),
        r"^no end within \d+ s \(INFO: task hung in lkdtm_HUNG_TASK\)$",
        slow=True,
        check=_has_evidence,
    ),
    Fault(
        "D state, sooner than the kernel looks",
        # the parent waits in the kernel until its child is gone (vfork(2))
        "libc = ctypes.CDLL(None)\nif libc.syscall(58) == 0:\n    libc.sleep(600)\n    libc._exit(0)",
        ("hung",),
        r"^no end within \d+ s \(task \w+ blocked in \w+\)$",
        marks="@pytest.mark.timeout_s(3)",
        slow=True,
        check=_has_evidence,
    ),
    Fault(
        "test sleeps for ever",
        "signal.pause()",
        ("hung",),
        # the kernel is idle, or about one of its timers
        r"^no end within \d+ s",
        marks="@pytest.mark.timeout_s(2)",
        slow=True,
        check=_has_evidence,
    ),
    Fault(
        "OOM of a child of the test",
        "assert in_child(eat_memory) == signal.SIGKILL",
        ("failed",),
        r"^the kernel complained: Out of memory",
        slow=True,
    ),
    Fault(
        "OOM of the worker",
        "eat_memory()",
        ("crashed",),
        r"^the guest's Python ended by signal 9 \(Out of memory",
    ),
    Fault(
        "fork bomb",
        "while True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
        # whom the kernel kills first is its choice: the worker, or enough others for it to be starved on
        ("crashed", "hung"),
        r"^the guest's Python ended by signal 9 \(Out of memory|^no end within \d+ s",
        marks="@pytest.mark.timeout_s(20)",
        slow=True,
    ),
    Fault(
        "guest powers off",
        "ctypes.CDLL(None).reboot(0x4321FEDC)\ntime.sleep(30)",
        ("crashed",),
        r"^the guest ended itself: Power down$",
    ),
    Fault(
        "guest reboots",
        "ctypes.CDLL(None).reboot(0x1234567)\ntime.sleep(30)",
        ("crashed",),
        r"^the guest ended itself: Restarting system$",
        slow=True,
    ),
    Fault(
        "QEMU is killed",
        'ask_host("QEMU is killed")\ntime.sleep(60)',
        ("crashed",),
        r"^QEMU was killed by SIGKILL$",
        signal=signal.SIGKILL,
    ),
    Fault(
        "QEMU is stopped",
        'ask_host("QEMU is stopped")\ntime.sleep(60)',
        ("hung",),
        r"^no end within \d+ s \(QEMU is stopped by a signal\)$",
        marks="@pytest.mark.timeout_s(3)",
        signal=signal.SIGSTOP,
    ),
    Fault(
        "console flood, 100 MB",
        'with open("/dev/console", "wb", buffering=0) as console:\n'
        '    for _ in range(101 << 10):\n'
        '        console.write(b"x" * 1022 + b"\\r\\n")',
        ("passed",),
        marks="@pytest.mark.timeout_s(3000)",
        slow=True,
        check=_flood_is_survived,
    ),
    Fault(
        "test prints 50 MB",
        "for _ in range(50 << 10):\n    print('x' * 1023)\npytest.fail('printed')",
        ("failed",),
        r"^Failed: printed$",
        slow=True,
        check=_is_shortened,
    ),
    Fault(
        "hostile bytes on the console",
        'for path in ("/dev/console", "/dev/ttyS0", "/dev/kmsg"):\n'
        '    with open(path, "wb", buffering=0) as sink:\n'
        "        sink.write(HOSTILE)",
        ("passed",),
    ),
    Fault(
        "hostile bytes in the output of a test",
        "os.write(1, HOSTILE)\nos.write(2, HOSTILE)\nprint(HOSTILE.decode(errors='surrogateescape'))\n"
        "pytest.fail(HOSTILE.decode('latin-1'))",
        ("failed",),
        r"^Failed: ",
        check=_keeps_hostile_bytes,
    ),
    Fault(
        "test closes all descriptors",
        "os.closerange(0, 1024)",
        # its Python ends as soon as it is asked for more
        ("crashed", "hung"),
        # or it is busy with its own failure, wherever in the kernel that is
        r"^the guest's Python ended with status \d+$|^no end within \d+ s",
        marks="@pytest.mark.timeout_s(2)",
    ),
    Fault(
        "test closes the channel",
        "for fd in channel_fds():\n    os.close(fd)",
        ("hung",),
        r"^it ended, but no report of it came within \d+ s: the guest's channel is spoilt$",
        slow=True,
    ),
    Fault(
        "test writes garbage to the channel",
        "for fd in channel_fds():\n    os.write(fd, HOSTILE * 20)",
        ("hung",),
        r"^it ended, but no report of it came within \d+ s: the guest's channel is spoilt$",
        slow=True,
    ),
    Fault(
        "test opens the guest's ports",
        "opened = []\n"
        "for port in pathlib.Path('/dev').glob('vport*'):\n"
        "    with contextlib.suppress(OSError), open(port, 'wb', buffering=0) as sink:\n"
        "        opened.append(port)\n"
        "        sink.write(HOSTILE)\n"
        "assert not opened, opened",
        ("passed",),
    ),
)  # fmt: skip
