"""Source lines of a real kernel's frames, compared with its source."""

from __future__ import annotations

from harness.events import ignore
from harness.kernel.layout import Layout
from harness.kernel.source import locate
from tests.e2e.conftest import Project

CRASH = """
def test_crash():
    with open("/proc/sysrq-trigger", "w") as trigger:
        trigger.write("c")
"""


def source_line(path: str, number: int) -> str:
    with locate("debian:6.12", layout=Layout.default(), events=ignore).reading(ignore) as read:
        content = read(path)
    assert content is not None
    return content.data.decode().splitlines()[number - 1].strip()


def test_the_frames_of_a_panic_have_the_lines_that_the_source_has(project: Project) -> None:
    project.write("test_it.py", CRASH)
    status, output = project.run("test_it.py", "-n", "1")
    assert status == 1, output
    outcome = project.detail("test_crash")
    assert outcome["result"] == "crashed"
    (splat,) = outcome["splats"]
    assert splat["kind"] == "panic"
    frames = {frame["function"]: frame for frame in splat["frames"]}
    crash = frames["sysrq_handle_crash"]
    assert crash["file"] == "drivers/tty/sysrq.c"
    assert source_line(crash["file"], crash["line"]) == 'panic("sysrq triggered crash\\n");'
    caller = frames["write_sysrq_trigger"]
    assert source_line(caller["file"], caller["line"]).startswith("__handle_sysrq(")
    place = f"drivers/tty/sysrq.c:{crash['line']}"
    assert place in output
    assert place in outcome["detail"]
    assert place in outcome["kernel_log"]
    (error,) = project.junit().iter("error")
    assert place in (error.text or "")
