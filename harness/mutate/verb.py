"""The verb: from names and a request to verdicts on the screen, in files, and as an exit status."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from harness.display import display_for
from harness.errors import KproofError
from harness.kernel.layout import Layout
from harness.kernel.mutants import find
from harness.model import Request
from harness.mutate.campaign import Campaign
from harness.mutate.kept import Kept, contents
from harness.mutate.report import listing, summary_line, verdicts_table, write
from harness.mutate.runner import Runner
from harness.mutate.verdicts import exit_status
from harness.paths import project_root
from harness.run import INTERRUPTED, shown


def list_mutants(names: Sequence[str]) -> str:
    return listing(find(names, _root()))


def mutate(
    request: Request,
    names: Sequence[str],
    *,
    guests: int,
    shape: Sequence[str],
    every: bool,
    anew: bool,
    update: bool,
    results: str | None,
) -> int:
    """Judge the mutants of these names (all), show it, write it down, and return the exit status.

    ``shape``: options of ``kproof run`` that say what guests are like. Raises KproofError for what ended it early, and
    KeyboardInterrupt; what is known until then is shown and written, too.
    """
    from harness.mutate.kernels import Kernels
    from harness.pytest_plugin.results import open_folder, run_folder

    root = _root()
    mutants = find(names, root)
    started, began = time.time(), time.monotonic()
    with display_for(sys.stdout) as display:
        kernels = Kernels(request, display.sink)
        base = kernels.base(update=update)
        folder = open_folder(run_folder(root / "results", results), latest=not results)
        campaign = Campaign(
            base,
            root=root,
            kernels=kernels,
            runner=Runner(root, shape),
            kept=Kept(Layout.default().memo),
            contents=contents,
            folder=folder,
            guests=guests,
            events=display.sink,
            shape=shape,
            every=every,
        )
        early: BaseException | None = None
        try:
            campaign.run(mutants, anew=anew)
            status = exit_status(campaign.judged)
        except KproofError as error:
            early, status = error, error.exit_status
        except KeyboardInterrupt as error:
            early, status = error, INTERRUPTED
        finally:
            kernels.close()
    seconds = time.monotonic() - began
    write(
        folder,
        campaign.judged,
        suites=campaign.suites,
        request=request,
        base=base,
        started=started,
        seconds=seconds,
        status=status,
        left=len(mutants) - len(campaign.judged),
    )
    print(verdicts_table(campaign.judged))
    print(summary_line(campaign.judged, seconds, shown(folder)))
    if early:
        raise early
    return status


def _root() -> Path:
    """The project: the nearest folder, from here upwards, that has patches and selftests; else kproof's own."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "patches").is_dir() and (folder / "selftests").is_dir():
            return folder
    return project_root()
