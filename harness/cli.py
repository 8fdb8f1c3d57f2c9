"""The command ``kproof``: the verbs. No logic of its own; each verb imports what it needs when it runs."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from harness import __version__
from harness.errors import KproofError, UserError
from harness.model import Request

if TYPE_CHECKING:
    from harness.bench import clocked


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Parse, run one verb, and leave with its exit status: 0 good, 1 tests failed, 2 your error, 3 the machine's."""
    try:
        status = run(sys.argv[1:] if arguments is None else arguments)
    except KproofError as error:
        print(f"kproof: {error}", file=sys.stderr)
        status = error.exit_status
    except KeyboardInterrupt:
        print("kproof: interrupted", file=sys.stderr)
        status = 130  # as a shell reports it
    except BrokenPipeError:  # the reader of our output has gone (`kproof kernels | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = 0
    sys.exit(status)


def run(arguments: Sequence[str]) -> int:
    """Run the verb that the arguments name and return its exit status; raises KproofError."""
    arguments, command = _split_command(list(arguments))
    options = _parser().parse_args(arguments)
    if command and options.verb not in (_run, _bisect, _exec):
        raise UserError(f"nothing is understood behind -- here: {' '.join(command)}")
    options.command = command
    # SIGTERM ends a verb as Ctrl-C does: guests and builds go, results stay.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return int(options.verb(options))


def _split_command(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What stands behind ``--`` is not ours to parse."""
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (try: {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="kproof", description="Prove what a Linux kernel patch does, in virtual machines.")
    parser.add_argument("--version", action="version", version=f"kproof {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True, parser_class=_Parser)

    verb = verbs.add_parser("run", help="build a kernel if need be, run selftests in guests, write the results")
    verb.set_defaults(verb=_run)
    verb.add_argument("tests", nargs="*", metavar="TEST", help="test files, folders or ids (all selftests)")
    _recipe_options(verb)
    _guest_options(verb)
    verb.add_argument("-n", "--guests", type=_positive, default=2, metavar="N", help="how many guests at once (2)")
    verb.add_argument("-k", metavar="EXPRESSION", help="only tests whose names match, as in pytest")
    verb.add_argument("-m", metavar="EXPRESSION", help="only tests whose markers match, as in pytest")
    verb.add_argument("-x", "--exitfirst", action="store_true", help="stop at the first failure")
    verb.add_argument("--require-feature", action="append", default=[], metavar="NAME", help="fail instead of skip")
    verb.add_argument("--cold", action="store_true", help="boot every guest instead of restoring a snapshot")
    verb.add_argument("--fresh", action="store_true", help="a guest of its own, just restored, for each test")
    verb.add_argument(
        "--random-order",
        nargs="?",
        type=_seed,
        const="new",
        metavar="SEED",
        help="tests in a random order, or this one",
    )
    verb.add_argument("--kmemleak", action="store_true", help="look for leaks after each test (--flavour kmemleak)")
    verb.add_argument("--max-skips", type=_natural, metavar="N", help="more skipped tests make the run fail")
    verb.add_argument("--results", metavar="DIR", help="where the results go (results/DATE-TIME)")

    verb = verbs.add_parser("mutate", help="whether the selftests notice kernels that each break one promise")
    verb.set_defaults(verb=_mutate)
    verb.add_argument("names", nargs="*", metavar="NAME", help="a feature, FEATURE/MUTANT, or a patch file (all)")
    _recipe_options(verb)
    _guest_options(verb)
    verb.add_argument("-n", "--guests", type=_positive, default=2, metavar="N", help="how many guests at once (2)")
    verb.add_argument("--all", action="store_true", help="all tests of the feature, also after one has noticed")
    verb.add_argument("--rerun", action="store_true", help="as if nothing were known from earlier calls")
    verb.add_argument("--results", metavar="DIR", help="where the results go (results/DATE-TIME)")
    verb.add_argument("--list", action="store_true", help="show the mutants and what they break; try none")

    verb = verbs.add_parser("matrix", help="selftests across kernels, judged by what is foretold of each")
    verb.set_defaults(verb=_matrix)
    verb.add_argument("file", nargs="?", metavar="FILE", help="the matrix (ci/matrix.toml)")
    verb.add_argument("--only", action="append", default=[], metavar="GLOB", help="cells whose id or kernel matches")
    verb.add_argument("--jobs", type=_positive, metavar="N", help="cells at once (as many as cores and memory allow)")
    verb.add_argument("-n", "--guests", type=_positive, metavar="N", help="guests for a cell (its share of the cores)")
    _guest_options(verb)
    verb.add_argument("--cold", action="store_true", help="boot every guest instead of restoring a snapshot")
    verb.add_argument("--rerun", action="store_true", help="as if nothing were known from earlier calls")
    verb.add_argument("--results", metavar="DIR", help="where the results go (results/DATE-TIME)")
    instead = verb.add_mutually_exclusive_group()
    instead.add_argument("--list", action="store_true", help="show the plan; run nothing")
    instead.add_argument("--emit", choices=("github", "gitlab"), help="print the CI file that runs each cell as a job")
    instead.add_argument("--merge", nargs="+", metavar="DIR", help="make one report of these results, into --results")

    verb = verbs.add_parser("bisect", help="which version, commit or patch broke a test: kproof bisect … -- TEST")
    verb.set_defaults(verb=_bisect)
    verb.add_argument("--good", default="", metavar="A", help="where the test passes: a version, or git:PATH@REF")
    verb.add_argument("--bad", default="", metavar="B", help="where it fails")
    verb.add_argument("--series", default="", metavar="FILE", help="instead: which patch of this mbox or folder")
    verb.add_argument("--find", choices=("broken", "fixed"), default="broken", help="what mended it: fixed (broken)")
    verb.add_argument("--exec", metavar="COMMAND", help="a shell command in the guest decides; status 125 is a skip")
    verb.add_argument("--kernel", default="", metavar="RECIPE", help="what a series is for, or refs are built with")
    verb.add_argument("--confidence", type=float, default=0.99, metavar="P", help="how sure the answer must be (0.99)")
    _guest_options(verb)
    verb.add_argument("--rerun", action="store_true", help="as if nothing were known from an earlier call")
    verb.add_argument("--results", metavar="DIR", help="where the results go (results/DATE-TIME)")

    verb = verbs.add_parser("bench", help="what a packet costs, to the instruction, and what a patch changes about it")
    verb.set_defaults(verb=_bench)
    verb.add_argument("name", metavar="NAME", help="a benchmark of selftests/bench (egress, …), or a file of your own")
    _recipe_options(verb)
    _size_options(verb, cpus=1)
    verb.add_argument("--base", metavar="RECIPE", help="compare with this kernel, for example 'NETFILTER_EGRESS=n'")
    verb.add_argument("--patched", metavar="RECIPE", help="what is compared with it (what the other options say)")
    verb.add_argument("--boots", type=_positive, metavar="N", help="how many boots of each kernel (3; with --time 6)")
    verb.add_argument("--packets", type=_natural, default=0, metavar="N", help="at least so many for each row")
    verb.add_argument("--margin", metavar="N,P%", help="what counts as no difference (10,0.5%%: the larger of both)")
    verb.add_argument("--time", action="store_true", help="measure time, in turn, and judge by statistics (margin 1%%)")
    verb.add_argument("--fail-if", choices=("dearer", "cheaper"), help="the verdict that makes the status 1")
    verb.add_argument("--profile", action="store_true", help="which functions the instructions are in; flame graphs")
    verb.add_argument("--results", metavar="DIR", help="where the results go (results/DATE-TIME)")

    verb = verbs.add_parser("exec", help="run one command in a guest: kproof exec [RECIPE] -- COMMAND")
    verb.set_defaults(verb=_exec)
    verb.add_argument("recipe", nargs="?", default="", metavar="RECIPE", help="the kernel ('debian:6.12')")
    _guest_options(verb)

    verb = verbs.add_parser("shell", help="an interactive guest on this host's root, through virtme-ng")
    verb.set_defaults(verb=_shell)
    verb.add_argument("recipe", nargs="?", default="", metavar="RECIPE", help="the kernel ('debian:6.12')")
    _size_options(verb)

    verb = verbs.add_parser("series", help="the known patch series, and what each is to a source")
    verb.set_defaults(verb=_series)
    verb.add_argument("action", nargs="?", choices=("list", "status"), default="list")
    verb.add_argument("--source", default=Request.source, metavar="SOURCE", help=f"for status ({Request.source})")

    verb = verbs.add_parser("kernels", help="the kernels in the store (list, prune), or in the archive (available)")
    verb.set_defaults(verb=_kernels)
    verb.add_argument("action", nargs="?", choices=("list", "prune", "available"), default="list")
    verb.add_argument("--keep", type=_natural, metavar="N", help="how many of the newest prune keeps")
    verb.add_argument("--since", default="5.10", metavar="VERSION", help="the oldest that available shows (5.10)")
    verb.add_argument("--update", action="store_true", help="available: read the archive's lists again")

    verb = verbs.add_parser("doctor", help="what this machine has, what is missing, and the command that mends it")
    verb.set_defaults(verb=_doctor)
    return parser


def _recipe_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--kernel", metavar="RECIPE", help="all of the options below in one text: 'debian:6.12 NETKIT=n'")
    verb.add_argument("--source", metavar="SOURCE", help="debian:VERSION, git:PATH@REF, dir:PATH, tar:PATH, image:…")
    verb.add_argument("--modules", metavar="DIR", help="the modules of --source image:PATH (/lib/modules)")
    verb.add_argument("--series", action="append", metavar="NAME", help="this series; 'none' for none (all that apply)")
    verb.add_argument("--patch", action="append", metavar="FILE", help="a patch or mbox file on top")
    verb.add_argument("--upstream", metavar="GITDIR", help="take the commits of absent series from this clone")
    verb.add_argument("--flavour", action="append", metavar="NAME", help="kasan, lockdep or kmemleak")
    verb.add_argument("--config", action="append", metavar="FILE", help="a Kconfig fragment on top, or a flavour")
    verb.add_argument("--set", action="append", metavar="SYMBOL=VALUE", help="a Kconfig symbol, the last word on it")
    verb.add_argument("--update", action="store_true", help="ask the archive whether there is a newer source")


def _size_options(verb: argparse.ArgumentParser, cpus: int = 2) -> None:
    verb.add_argument("--memory", type=_positive, default=512, metavar="MB", help="memory of a guest (512)")
    verb.add_argument("--cpus", type=_positive, default=cpus, metavar="N", help=f"processors of a guest ({cpus})")
    verb.add_argument("--accel", choices=("kvm", "tcg"), help="accelerator (the best that works here)")


def _guest_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--root", choices=("image", "virtme"), default="image", help="what guests boot (image)")
    _size_options(verb)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _seed(text: str) -> str:
    return text if text == "new" else str(_natural(text))


def _positive(text: str) -> int:
    if not _natural(text):
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def _request(options: argparse.Namespace) -> Request:
    """The request that the recipe options write; ``--kernel`` writes it all by itself."""
    single = {
        "--source": options.source, "--series": options.series, "--patch": options.patch, "--config": options.config,
        "--upstream": options.upstream, "--flavour": options.flavour, "--set": options.set,
        "--modules": options.modules,
    }  # fmt: skip
    if options.kernel is not None:
        if both := [name for name, value in single.items() if value]:
            raise UserError(f"--kernel is a whole recipe: write {both[0]} into it, or leave --kernel out")
        return Request.parse(options.kernel).anchored(Path.cwd())
    series = options.series
    if series and "none" in series and len(series) > 1:
        raise UserError("--series none stands alone")
    # `--config kasan` reads well, too: a bare word is a flavour, a fragment's path has a suffix or a folder
    configs = options.config or []
    named = [text for text in configs if text.isidentifier()]
    return Request(
        source=options.source or Request.source,
        series=None if not series else () if series == ["none"] else tuple(series),
        patches=tuple(options.patch or ()),
        flavours=(*(options.flavour or ()), *named),
        configs=tuple(text for text in configs if text not in named),
        settings=tuple(options.set or ()),
        upstream=options.upstream or "",
        modules=options.modules or "",
    ).anchored(Path.cwd())


def _run(options: argparse.Namespace) -> int:
    from harness.run import run_selftests

    pytest_arguments = [f"--require-feature={name}" for name in options.require_feature]
    pytest_arguments += ["-k", options.k] if options.k else []
    pytest_arguments += ["-m", options.m] if options.m else []
    pytest_arguments += ["-x"] if options.exitfirst else []
    pytest_arguments += ["--cold"] if options.cold else []
    pytest_arguments += ["--fresh"] if options.fresh else []
    pytest_arguments += ["--update"] if options.update else []
    pytest_arguments += [f"--random-order={options.random_order}"] if options.random_order is not None else []
    pytest_arguments += ["--kmemleak"] if options.kmemleak else []
    pytest_arguments += ["--max-skips", str(options.max_skips)] if options.max_skips is not None else []
    pytest_arguments += options.command
    return run_selftests(
        _request(options),
        tests=options.tests,
        guests=options.guests,
        root=options.root,
        memory_mb=options.memory,
        cpus=options.cpus,
        accel=options.accel,
        results=options.results,
        pytest_arguments=pytest_arguments,
    )


def _mutate(options: argparse.Namespace) -> int:
    from harness.mutate.verb import list_mutants, mutate

    if options.list:
        print(list_mutants(options.names))
        return 0
    shape = ["--root", options.root, "--memory", str(options.memory), "--cpus", str(options.cpus)]
    return mutate(
        _request(options),
        options.names,
        guests=options.guests,
        shape=[*shape, *(["--accel", options.accel] if options.accel else [])],
        every=options.all,
        anew=options.rerun,
        update=options.update,
        results=options.results,
    )


def _matrix(options: argparse.Namespace) -> int:
    from harness.matrix.steps import Shape
    from harness.matrix.verb import emitted, matrix, merged

    if options.merge:
        if not options.results:
            raise UserError("--merge needs to know where its report goes: --results DIR")
        return merged(options.file, options.merge, only=options.only, results=options.results)
    if options.emit:
        print(emitted(options.file, options.emit, only=options.only), end="")
        return 0
    return matrix(
        options.file,
        only=options.only,
        jobs=options.jobs,
        shape=Shape(options.root, options.memory, options.cpus, options.accel or "", options.cold),
        guests=options.guests,
        anew=options.rerun,
        list_only=options.list,
        results=options.results,
    )


def _bisect(options: argparse.Namespace) -> int:
    from harness.bisect.verb import Asked, bisect

    shape = ["--root", options.root, "--memory", str(options.memory), "--cpus", str(options.cpus)]
    good, bad = (Request(source=end).anchored(Path.cwd()).source for end in (options.good, options.bad))
    asked = Asked(
        good,
        bad,
        options.series,
        Request.parse(options.kernel).anchored(Path.cwd()),
        breaks=options.find == "broken",
        tests=tuple(options.command),
        command=options.exec or "",
        confidence=options.confidence,
    )
    return bisect(
        asked,
        shape=[*shape, *(["--accel", options.accel] if options.accel else [])],
        anew=options.rerun,
        results=options.results,
    )


def _bench(options: argparse.Namespace) -> int:
    from harness.bench.judge import Margin
    from harness.bench.model import Verdict
    from harness.bench.verb import Wish, base_and_patched, bench, check_exact

    clock = _clock(options) if options.time else None
    if not clock:
        check_exact(options.accel, options.cpus, options.memory)
    series, options.series = options.series or (), None
    base, request = base_and_patched(_request(options), options.base, options.patched, series, Path.cwd())
    if options.fail_if and base is None:
        raise UserError(f"--fail-if {options.fail_if} needs two kernels: add --base RECIPE, or --series NAME")
    return bench(
        Wish(
            name=options.name,
            request=request,
            base=base,
            boots=options.boots or Wish.boots,
            packets=options.packets,
            margin=Margin() if clock or options.margin is None else Margin.parse(options.margin),
            fail_if=Verdict(options.fail_if) if options.fail_if else None,
            memory_mb=options.memory,
            results=options.results,
            update=options.update,
            profile=options.profile,
            clock=clock,
        )
    )


def _clock(options: argparse.Namespace) -> clocked.Wish:
    from harness.bench import clocked

    if options.profile or options.packets:
        raise UserError(
            f"{'--profile' if options.profile else '--packets'} is for instructions; it does not go with --time"
        )
    return clocked.Wish(
        runs=options.boots or clocked.Wish.runs,
        margin=clocked.Wish.margin if options.margin is None else clocked.parse_margin(options.margin),
        memory_mb=options.memory,
        cpus=options.cpus,
        accel=options.accel,
    )


def _exec(options: argparse.Namespace) -> int:
    from harness.run import execute

    if not options.command:
        raise UserError("what shall run? kproof exec [RECIPE] -- COMMAND")
    return execute(
        Request.parse(options.recipe).anchored(Path.cwd()),
        options.command,
        root=options.root,
        memory_mb=options.memory,
        cpus=options.cpus,
        accel=options.accel,
    )


def _shell(options: argparse.Namespace) -> int:
    from harness.run import shell

    request = Request.parse(options.recipe).anchored(Path.cwd())
    return shell(request, memory_mb=options.memory, cpus=options.cpus, accel=options.accel)


def _series(options: argparse.Namespace) -> int:
    from harness.tables import series_list, series_status

    print(series_status(options.source) if options.action == "status" else series_list())
    return 0


def _kernels(options: argparse.Namespace) -> int:
    from harness.tables import kernels_available, kernels_list, kernels_prune

    if options.action == "prune":
        if options.keep is None:
            raise UserError("prune needs to know how many kernels stay: kproof kernels prune --keep N")
        print(kernels_prune(options.keep))
    elif options.action == "available":
        print(kernels_available(options.since, update=options.update))
    else:
        print(kernels_list())
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from harness.doctor import examine

    return examine()


if __name__ == "__main__":
    main()
