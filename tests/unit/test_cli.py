"""The command line: what it understands, and the one line and status for what it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import cli
from harness.errors import UserError
from harness.model import Request


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        ([], "the following arguments are required: VERB"),
        (["run", "-n", "0"], "must be at least 1"),
        (["run", "-n", "two"], "'two' is not a whole number"),
        (["run", "--accel", "xen"], "invalid choice: 'xen'"),
        (["run", "--random-order", "selftests"], "'selftests' is not a whole number"),
        (["run", "--memory", "64"], "64 MB is less than a guest needs"),
        (["run", "--kernel", "debian:6.12", "--set", "NETKIT=n"], "write --set into it, or leave --kernel out"),
        (["run", "--kernel", "debian:6.12 netkit"], "'netkit' is not understood"),
        (["run", "--series", "none", "--series", "netkit"], "--series none stands alone"),
        (["run", "no/such/test.py"], "no such test path: no/such/test.py"),
        (["run", "--require-feature", "teleport"], "no feature is called 'teleport'"),
        (["exec"], "what shall run?"),
        (["kernels", "prune"], "kproof kernels prune --keep N"),
        (["run", "--source", "ftp:6.12"], "ftp"),
        (["run", "--flavour", "strawberry"], "there is no debug flavour 'strawberry'"),
        (["run", "--series", "netkot"], "netkot"),
        (["run", "--patch", "/no/such/file.patch"], "/no/such/file.patch"),
        (["run", "--set", "NETKIT"], "NETKIT"),
        (["mutate", "netkot"], "there is no mutant 'netkot'; features with mutants are"),
        (["mutate", "netkit/nought", "--list"], "there is no mutant 'netkit/nought'; netkit has"),
        (["mutate", "--source", "kernel:a5"], "kernel:a5 is a finished kernel; mutants need a source"),
        (["mutate", "--", "-x"], "nothing is understood behind --"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_bad_input_is_one_clear_line_and_status_2(arguments: list[str], words: str) -> None:
    done = call(*arguments)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def options(*arguments: str) -> Any:
    return cli._parser().parse_args(["run", *arguments])


@pytest.mark.parametrize(
    ("arguments", "request_"),
    [
        ([], Request()),
        (["--series", "none"], Request(series=())),
        (["--series", "netkit", "--series", "nf_egress"], Request(series=("netkit", "nf_egress"))),
        (["--source", "debian:6.1", "--set", "A=y", "--set", "B=n"], Request("debian:6.1", settings=("A=y", "B=n"))),
        (["--flavour", "kasan"], Request(flavours=("kasan",))),
        (["--config", "kasan"], Request(flavours=("kasan",))),
        (["--kernel", "git:/src@v6.1 +none A=n"], Request("git:/src@v6.1", series=(), settings=("A=n",))),
    ],
)
def test_options_write_a_request(arguments: list[str], request_: Request) -> None:
    assert cli._request(options(*arguments)) == request_


def test_a_random_order_has_a_seed_or_a_new_one() -> None:
    assert options().random_order is None
    assert options("--random-order", "-x").random_order == "new"
    assert options("selftests", "--random-order", "7").random_order == "7"


def test_paths_are_made_absolute_so_that_a_run_can_be_repeated_from_elsewhere() -> None:
    request = cli._request(options("--patch", "fix.patch", "--config", "my.config", "--upstream", "linux"))
    assert request.patches == (str(Path("fix.patch").absolute()),)
    assert request.configs == (str(Path("my.config").absolute()),)
    assert request.upstream == str(Path("linux").absolute())


def test_what_stands_behind_two_dashes_is_not_parsed() -> None:
    assert cli._split_command(["exec", "--", "ls", "--help", "--"]) == (["exec"], ["ls", "--help", "--"])
    assert cli._split_command(["run", "-x"]) == (["run", "-x"], [])


def test_a_full_pipe_reader_that_leaves_is_no_error() -> None:
    script = f"{sys.executable} -m harness.cli series | head -n 1"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("SERIES")
    assert done.stderr == ""


def test_start_up_imports_nothing_heavy() -> None:
    """`kproof --help` and bad input answer at once: what is heavy is imported by who needs it."""
    program = (
        "import sys\nfrom harness import cli\ncli._parser()\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    heavy = {
        "pytest",
        "rich",
        "paramiko",
        "execnet",
        "xdist",
        "pyroute2",
        "junit_xml",
        "elftools",
        "unidiff",
        "asyncio",
    }
    assert not heavy & set(done.stdout.split())


def test_user_error_is_what_the_parser_raises() -> None:
    with pytest.raises(UserError, match="unrecognized"):
        cli.run(["series", "--colour"])
