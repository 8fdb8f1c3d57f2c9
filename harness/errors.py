"""The kinds of failure that are not a test's: yours, the machine's, and the kernel's before any test could run."""

from __future__ import annotations


class KproofError(Exception):
    """A failure with one clear line (``str(error)``) that says what to do, and an exit status."""

    exit_status = 3


class UserError(KproofError):
    """What was asked for cannot be: a typo, a missing file, a patch that does not apply. Exit status 2."""

    exit_status = 2


class InfraError(KproofError):
    """The machine, the network or a tool failed. Never counted as a test's failure, never cached. Exit status 3."""

    exit_status = 3


class BootError(KproofError):
    """The kernel under test does not boot: a result like a failing test, with the console's tail. Exit status 1."""

    exit_status = 1
