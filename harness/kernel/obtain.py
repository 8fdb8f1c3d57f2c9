"""From a request to a kernel in the store: the one door of this floor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from harness import paths
from harness.errors import KproofError, UserError
from harness.events import Notice, Phase, Sink, ignore
from harness.kernel import fragments, patching, ready, toolchain, upstream
from harness.kernel.files import disk_errors
from harness.kernel.kconfig import Dropped
from harness.kernel.layout import Layout
from harness.kernel.locks import locked
from harness.kernel.memo import memo
from harness.kernel.series import Series, load_series, patches_for, select, status
from harness.kernel.source import Located, locate
from harness.kernel.store import Store
from harness.model import Kernel, Patch, Recipe, Request, SeriesState, SeriesStatus

ARCH = "x86_64"


@dataclass(frozen=True)
class _Plan:
    recipe: Recipe
    located: Located
    named: frozenset[str]
    """The symbols that the user wrote."""


def resolve(request: Request, *, events: Sink = ignore, update: bool = False) -> Recipe:
    """Everything that the request means, looked up; downloads and unpacks a source that is not known yet.

    ``update`` asks the archive for newer versions. Raises UserError for what cannot be, InfraError for a machine that
    fails.
    """
    layout = Layout.default()
    with disk_errors(layout.root):
        if stored := _stored(request, layout):
            return Store(layout.kernels).recipe(stored)
        if request.ready_made:
            return ready.locate(request, layout=layout, events=events, update=update).recipe
        return _plan(request, layout, events, update).recipe


def obtain(request: Request, *, events: Sink = ignore, update: bool = False) -> Kernel:
    """The kernel of a request: from the store when it is there, else built, stored and returned.

    Two processes that want the same kernel build it once. Raises UserError for what cannot be (a patch that does not
    apply, a dropped symbol, code that does not compile), InfraError for a machine that fails.
    """
    layout = Layout.default()
    with disk_errors(layout.root):
        if stored := _stored(request, layout):
            return stored
        store = Store(layout.kernels)
        if request.ready_made:
            return _ready_made(request, store, layout, events, update)
        plan = _plan(request, layout, events, update)
        identity = plan.recipe.identity
        if kernel := store.get(identity):
            return kernel
        lock = layout.locks / f"kernel-{identity}.lock"
        with locked(lock, what=f"builds this kernel ({identity})", events=events):
            if kernel := store.get(identity):
                return kernel
            return _build(plan, request, store, layout, events)


def _ready_made(request: Request, store: Store, layout: Layout, events: Sink, update: bool) -> Kernel:
    found = ready.locate(request, layout=layout, events=events, update=update)
    identity = found.recipe.identity
    if kernel := store.get(identity):
        return kernel
    with locked(layout.locks / f"kernel-{identity}.lock", what=f"unpacks this kernel ({identity})", events=events):
        return store.get(identity) or ready.make(found, _absolute(request), store, layout, events)


def series_status(source_spec: str, *, events: Sink = ignore) -> tuple[SeriesStatus, ...]:
    """What each series is to a source. Raises as ``resolve`` does."""
    layout = Layout.default()
    with disk_errors(layout.root):
        located = locate(source_spec, layout=layout, events=events)
        return _statuses(load_series(_patches()), located, layout, events)


def _patches() -> Path:
    return paths.project_root() / "patches"


def _kconfigs() -> Path:
    return paths.project_root() / "kconfigs"


def _stored(request: Request, layout: Layout) -> Kernel | None:
    """The kernel that ``kernel:IDENTITY`` names."""
    scheme, _, prefix = request.source.partition(":")
    if scheme != "kernel":
        return None
    if request != Request(source=request.source):
        raise UserError(f"{request.source} is a finished kernel: series, patches and settings cannot be added to it")
    return Store(layout.kernels).find(prefix)


def _plan(request: Request, layout: Layout, events: Sink, update: bool) -> _Plan:
    # what only the user can mend is said before anything is downloaded
    known = load_series(_patches())
    wanted = select(request.series, known)
    user_patches = tuple(patch for path in request.patches for patch in patching.load(Path(path).expanduser()))
    if request.upstream:
        upstream.check(Path(request.upstream).expanduser())
    user_settings = dict(fragments.setting(text) for text in request.settings)
    for flavour in request.flavours:
        _flavour(flavour, known)
    located = locate(request.source, layout=layout, events=events, update=update)
    version = located.source.version
    statuses = list(_statuses(wanted, located, layout, events))
    patches: list[Patch] = []
    for index, (series, one) in enumerate(zip(wanted, statuses, strict=True)):
        if one.state is SeriesState.APPLIES:
            patches += patches_for(series, version)
        elif one.state is SeriesState.ABSENT:
            taken = _from_upstream(series, request, located, layout, events)
            if taken is not None:
                statuses[index] = replace(one, state=SeriesState.APPLIES, reason=taken[0])
                patches += taken[1]
            elif request.series is not None:
                hint = "; choose a newer source, or take it from a clone with --upstream GITDIR"
                raise UserError(
                    f"series {one.name} is absent from {located.source.label}: {one.reason}"
                    f"{hint if series.since else ''}"
                )
    user_configs = [fragments.read(Path(path).expanduser(), version) for path in request.configs]
    layers: list[Mapping[str, str]] = [fragments.read(_kconfigs() / "base.config", version)]
    for one in statuses:
        fragment = _kconfigs() / f"{one.name}.config"
        if one.state is not SeriesState.ABSENT and fragment.exists():
            layers.append(fragments.read(fragment, version))
    layers += [fragments.read(_flavour(flavour, known), version) for flavour in request.flavours]
    layers += [*user_configs, user_settings]
    recipe = Recipe(
        source=located.source,
        series=tuple(statuses),
        patches=(*patches, *user_patches),
        settings=tuple(fragments.merge(layers).items()),
        flavours=tuple(request.flavours),
        toolchain=toolchain.describe(layout.memo),
        arch=ARCH,
    )
    return _Plan(recipe, located, frozenset(fragments.merge([*user_configs, user_settings])))


def _flavour(name: str, known: Sequence[Series]) -> Path:
    reserved = {"base", *(one.name for one in known)}
    path = _kconfigs() / f"{name}.config"
    if name in reserved or not path.exists():
        flavours = sorted(file.stem for file in _kconfigs().glob("*.config") if file.stem not in reserved)
        raise UserError(f"there is no debug flavour {name!r}; there are {', '.join(flavours) or 'none'}")
    return path


def _statuses(wanted: Sequence[Series], located: Located, layout: Layout, events: Sink) -> tuple[SeriesStatus, ...]:
    """The status of each series, found out once per tree and definition."""

    def look(series: Series) -> list[str]:
        with located.reading(events) as read:
            found = status(series, located.source.version, read, workspace=layout.root / "scratch")
        return [found.state.value, found.reason]

    statuses = []
    for series in wanted:
        key = [located.source.identity, str(located.source.version), series.name, series.definition]
        state, reason = memo(layout.memo, "series", key, partial(look, series))
        statuses.append(SeriesStatus(series.name, SeriesState(state), reason))
    return tuple(statuses)


def _from_upstream(
    series: Series, request: Request, located: Located, layout: Layout, events: Sink
) -> tuple[str, tuple[Patch, ...]] | None:
    """The reason and the patches of an absent series that the user's clone has; None when it cannot be had from there.

    A series that the user named and that the clone lacks, or whose commits do not apply, is an error.
    """
    if not request.upstream:
        return None
    clone = Path(request.upstream).expanduser()
    try:
        found = upstream.patches(series, clone, located.source.version, keep=layout.memo)
        with located.reading(events) as read:
            patching.patched(found, read, workspace=layout.root / "scratch")
    except (upstream.Missing, patching.Mismatch) as error:
        if request.series is not None:
            raise
        events(Notice(f"series {series.name}: {str(error).splitlines()[0]}"))
        return None
    return f"{len(found)} upstream commits from {clone}", found


def _build(plan: _Plan, request: Request, store: Store, layout: Layout, events: Sink) -> Kernel:
    from harness.kernel.build import build

    recipe = plan.recipe
    with plan.located.building(events):
        with plan.located.writing(events):
            tree = plan.located.prepare(events)
            if recipe.patches:
                names = [patch.name for patch in recipe.patches]
                events(Phase("patch", names[0] if len(names) == 1 else f"{len(names)} of them"))
            tree.switch(recipe.patches)
        entry = store.begin(recipe, _absolute(request))
        own = bool(recipe.patches or plan.named) or not request.source.startswith("debian:")
        try:
            return build(tree, recipe, entry, named=plan.named, own=own, ccache=layout.ccache, events=events)
        except Dropped:
            # says all there is; make had nothing to say
            raise
        except KproofError as error:
            log = entry.fail(layout.failed)
            raise type(error)(f"{error}\nbuild log: {log}") from None
        finally:
            entry.discard()


def _absolute(request: Request) -> Request:
    """The request with paths that mean the same from every folder."""

    def settle(path: str) -> str:
        return str(Path(path).expanduser().absolute())

    return replace(
        request,
        patches=tuple(map(settle, request.patches)),
        configs=tuple(map(settle, request.configs)),
        upstream=settle(request.upstream) if request.upstream else "",
        modules=settle(request.modules) if request.modules else "",
    )
