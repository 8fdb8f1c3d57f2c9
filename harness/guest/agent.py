"""Init of a guest, and the Python at its end of the channel. Needs nothing but the standard library.

The channel is a virtio-serial port named PORT, and both sides speak in lines of JSON. When all is imported, the guest
says ``{"waiting": true}``. The host answers with *orders*:

    {"name": "g0", "env": {…}, "mounts": [["TAG", "/path"], …], "time": 1763628825.5, "seed": HEX}

and the guest with ``{"ready": SECONDS_SINCE_POWER_ON, "kernel": RELEASE}`` or ``{"error": TEXT}``. From then on the
port is standard input and output of a Python that executes what ``python -c BOOTSTRAP`` would: that is what execnet
expects behind ``popen//python=``.

A guest that shall be saved gets ``{"stand_by": MODULE, "tests": [PATH, …], "folder": PATH, "mounts": …}`` before. The
module's ``stand_by(tests, park)`` collects the tests and calls ``park``, in which the guest unmounts all, answers
``{"standing_by": {"modules": {FILE: [MTIME_NS, SIZE], …}, "rest": {…}}}`` and waits for orders. Saved in that state, it
goes on from there in each restored life: the channel is then served by a thread, and the main thread does what comes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import select
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PORT = "kproof.channel"
CONTROL = "kproof.control"
"""A second port, served by process 1: a line on it asks the kernel for evidence (see _serve_control)."""

MODULES = "modules"
"""The serial number of the disk that has /lib/modules, where the kernel has any."""

# How the console tells that the tests' process ended, and the guest with it.
WORKER_ENDED = "the guest's Python ended"

BYTECODE = "/usr/lib/kproof/bytecode"
"""Where a guest with the frozen root has byte code, each under its source's path: nothing lies beside the sources."""
PROJECT_BYTECODE = "build/bytecode"
"""That of the project's own sources, in its folder (bytecode.py)."""

KEEP = "KPROOF_KEEP"
"""Environment variable of a virtme guest's agent: folders, separated by colons, that its own /tmp must not hide."""

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_BIND, MS_MOVE = 1, 2, 4, 4096, 8192
RB_POWER_OFF = 0x4321FEDC

# Imported before the orders come: pytest, which comes with the plugin, is most of what a worker has to load.
IMPORTS = ("execnet.gateway_base", "harness.pytest_plugin.session")

# What every guest has mounted, whichever launcher booted it: type, place, options.
MOUNTS = (
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", ""),
    ("devpts", "/dev/pts", "mode=620,ptmxmode=666"),
    ("tmpfs", "/dev/shm", ""),
    ("tmpfs", "/run", "mode=755"),
    ("tmpfs", "/tmp", "mode=1777"),
    ("cgroup2", "/sys/fs/cgroup", ""),
    ("bpf", "/sys/fs/bpf", "mode=700"),
)

# Modules that bring devices of their own when a test's first one makes the kernel load them.
MODULE_OPTIONS = """options dummy numdummies=0
options ifb numifbs=0
options bonding max_bonds=0
"""

# An NMI from the host makes a kernel that does nothing else any more say where it is. And the markers that cut its log
# must not be dropped, as the kernel does with what user space writes in quick succession.
SYSCTLS = {"unknown_nmi_panic": "1", "printk_devkmsg": "on"}
# Only the first processor gets that NMI: a panic shall have the others tell as well (PANIC_PRINT_ALL_CPU_BT, 5.17).
# Where the kernel has a detector for tasks that hang, it shall speak before a test's limit (60 s) is over.
SYSCTLS_IF_THERE = {"panic_print": "64", "hung_task_timeout_secs": "30", "hung_task_check_interval_secs": "10"}

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "PYTHONDONTWRITEBYTECODE": "1",
}

_libc = ctypes.CDLL(None, use_errno=True)

Modules = dict[str, list[int]]
"""Loaded project files with their modification time (ns) and size."""


def init() -> None:
    """Run as process 1 of a guest that booted from the frozen root. Does not return: the guest powers off."""
    try:
        _writable_root()
        os.environ.clear()
        os.environ.update(ENVIRONMENT)
        os.environ["PYTHONPYCACHEPREFIX"] = BYTECODE
        supervise()
    except BaseException as error:  # process 1 must say why before it goes: the console is all that is left of it
        _say(f"init failed: {error!r}")
    finally:
        os.sync()
        _libc.reboot(RB_POWER_OFF)


def supervise() -> None:
    """Run the channel's Python as a child, be the parent of all orphans, and say on the console how it ended."""
    prepare()
    child = os.fork()
    if not child:
        serve()
    threading.Thread(target=_serve_control, daemon=True).start()
    threading.Thread(target=_end_beheaded, args=(child,), daemon=True).start()
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            _say(f"{WORKER_ENDED} with status {code}" if code >= 0 else f"{WORKER_ENDED} by signal {-code}")
            return


def _end_beheaded(child: int) -> None:
    """End the tests' process once its main thread is gone: an oops kills the thread that met it, and no other.

    The rest would live on without a word, and process 1 would not hear of it: such a main thread is a zombie that
    wait(2) does not report (proc_pid_stat(5)).
    """
    while True:
        time.sleep(1)
        try:
            state = Path(f"/proc/{child}/stat").read_text().rpartition(") ")[2][0]
            if state == "Z" and len(os.listdir(f"/proc/{child}/task")) > 1:
                os.kill(child, signal.SIGKILL)
                return
        except (FileNotFoundError, ProcessLookupError):  # it ended before a look at it, or under it
            return


def _serve_control() -> None:
    """For each line from the host, let the kernel say on the console what its processors and tasks are doing."""
    control = _open_port(CONTROL)
    while True:
        _read_line(control)
        # all processors' backtraces, tasks that are blocked, all tasks (Documentation/admin-guide/sysrq.rst)
        for key in "lwt":
            Path("/proc/sysrq-trigger").write_text(key)


def _writable_root() -> None:
    """Put a tmpfs over the read-only root, so that mount points can be made and tests can write where they like."""
    _mount("tmpfs", "/mnt")
    for folder in ("/mnt/upper", "/mnt/work"):
        Path(folder).mkdir()
    _mount("overlay", "/newroot", "lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work")
    os.chdir("/newroot")
    _mount(".", "/", flags=MS_MOVE)
    os.chroot(".")
    os.chdir("/")


def serve() -> None:
    """Be the Python at the guest's end of the channel. Does not return."""
    status = 1
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        for module in IMPORTS:
            __import__(module)
        fd = _open_port(PORT)
        _write_line(fd, {"waiting": True})
        orders = json.loads(_read_line(fd))
        if "stand_by" in orders:
            _stand_by(fd, orders)
        else:
            _begin(fd, orders, {})
            _converse(fd)
        status = 0
    except BaseException as error:
        import traceback

        if isinstance(error, SystemExit):
            status = error.code if isinstance(error.code, int) else 1
        else:
            _say("agent failed: " + traceback.format_exc().strip())
    finally:
        os._exit(status)


def prepare() -> None:
    """What a guest must have before anything works: file systems, sysctls, loopback."""
    for kind, place, options in MOUNTS:
        os.makedirs(place, exist_ok=True)
        if not _is_mounted(kind, place):
            with _kept_below(place):
                _mount(kind, place, options, MS_NOSUID)
    if modules := _disk(MODULES):  # from here on, the kernel loads what it is asked for (modprobe(8))
        if not os.path.isdir("/lib/modules"):
            _make_folder("/lib/modules")
        _mount(modules, "/lib/modules", flags=MS_RDONLY, kind="erofs")
        os.makedirs("/run/modprobe.d", exist_ok=True)
        Path("/run/modprobe.d/kproof.conf").write_text(MODULE_OPTIONS)  # modprobe.d(5)
        _make_nodes(Path("/lib/modules", os.uname().release, "modules.devname"))
    for name, value in SYSCTLS.items():
        Path("/proc/sys/kernel", name).write_text(f"{value}\n")
    for name, value in SYSCTLS_IF_THERE.items():
        if (path := Path("/proc/sys/kernel", name)).exists():
            path.write_text(f"{value}\n")
    _loopback_up()
    sys.path[:] = [folder for folder in sys.path if folder]


def _make_nodes(table: Path) -> None:
    """The device files whose first opening loads a module: depmod lists them as ``tun net/tun c10:200``.

    Where there is a systemd, `kmod static-nodes` and systemd-tmpfiles(8) do it.
    """
    for line in table.read_text().splitlines() if table.exists() else []:
        if not line.startswith("#"):
            _, name, kind, major, minor = re.fullmatch(r"(\S+) (\S+) ([bc])(\d+):(\d+)", line).groups()  # type: ignore[union-attr]
            path = Path("/dev", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                mode = stat.S_IFCHR if kind == "c" else stat.S_IFBLK
                os.mknod(path, mode | 0o600, os.makedev(int(major), int(minor)))


def _make_folder(name: str) -> None:
    """Make a folder, if need be in a tmpfs over the one that it shall be in: a host's root is read-only."""
    try:
        os.mkdir(name)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        parent = os.path.realpath(os.path.dirname(name))
        os.makedirs("/run/kproof/upper")
        os.makedirs("/run/kproof/work")
        _mount("overlay", parent, f"lowerdir={parent},upperdir=/run/kproof/upper,workdir=/run/kproof/work")
        os.mkdir(name)


@contextlib.contextmanager
def _kept_below(place: str) -> Iterator[None]:
    """What is mounted over ``place`` meanwhile hides none of the folders that KEEP names: a checkout below /tmp."""
    names = {name for name in os.environ.get(KEEP, "").split(":") if name.startswith(place + "/")}
    kept = {name: os.open(name, os.O_PATH | os.O_DIRECTORY) for name in sorted(names)}
    yield
    for name, fd in kept.items():
        os.makedirs(name, exist_ok=True)
        _mount(f"/proc/self/fd/{fd}", name, flags=MS_BIND, kind="none")
        os.close(fd)


def _is_mounted(kind: str, place: str) -> bool:
    try:
        with open("/proc/mounts") as mounts:
            return any(line.split()[1:3] == [place, kind] for line in mounts)
    except FileNotFoundError:  # no /proc yet
        return False


def _loopback_up() -> None:
    import fcntl
    import struct

    SIOCSIFFLAGS, IFF_UP_RUNNING = 0x8914, 0x41
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP_RUNNING))


def _open_port(wanted: str) -> int:
    """Find the port by the name that its device announces; no udev is needed for that."""
    for name_file in Path("/sys/class/virtio-ports").glob("*/name"):
        if name_file.read_text().strip() == wanted:
            return os.open(f"/dev/{name_file.parent.name}", os.O_RDWR | os.O_CLOEXEC)
    raise OSError(errno.ENODEV, f"no virtio-serial port named {wanted}")


def _read_line(fd: int) -> bytes:
    """One line, byte by byte: what follows it belongs to the next reader. Waits for a host to connect."""
    line = bytearray()
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while not line.endswith(b"\n"):
        poll.poll()
        byte = os.read(fd, 1)
        if not byte:  # nobody is connected: a port at end of file polls readable, so there is no event to wait for
            time.sleep(0.02)
        line += byte
    return bytes(line)


def _disk(serial: str) -> str:
    """The device of the disk with this serial number, or an empty text."""
    for file in Path("/sys/block").glob("vd*/serial"):
        if file.read_text().strip() == serial:
            return f"/dev/{file.parent.name}"
    return ""


def _write_line(fd: int, message: dict[str, object]) -> None:
    os.write(fd, json.dumps(message).encode() + b"\n")


def _stand_by(fd: int, orders: dict[str, Any]) -> None:
    """Get ready for a project's tests, be saved, and work; nothing stays mounted while one waits."""
    import gc
    import importlib

    conversation = threading.Thread(target=_converse_in_a_thread, args=(fd,))

    def park(rest: list[str]) -> bool:
        """``rest``: files and folders of importance that are no modules. Returns whether all are as they were."""
        os.chdir("/")
        files = [file for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))]
        folder = orders["folder"].rstrip("/") + "/"
        loaded = {file: state(file) for file in files if file.startswith(folder)}
        others = {path: state(path) for path in rest}
        gc.collect()  # closes what a session left open
        gc.freeze()  # and no later collection touches, and so copies, the pages that all of this is on
        gc.set_threshold(10_000)  # pytest makes much that lives for a test only
        gc.enable()
        for _, place in orders["mounts"]:
            if _libc.umount2(place.encode(), 0):
                raise OSError(ctypes.get_errno(), f"umount {place}: {os.strerror(ctypes.get_errno())}")
        _write_line(fd, {"standing_by": {"modules": loaded, "rest": others}})
        unchanged = _begin(fd, json.loads(_read_line(fd)), loaded)
        conversation.start()
        return unchanged and all(state(path) == before for path, before in others.items())

    _mount_all(orders)
    os.chdir(orders["folder"])
    gc.disable()  # what is collected stays: there is nothing to find among it
    importlib.import_module(orders["stand_by"]).stand_by(orders["tests"], park)
    conversation.join()


def _begin(fd: int, orders: dict[str, Any], loaded: Modules) -> bool:
    """Do as the host says, and tell it; returns whether the files in memory are as they were."""
    try:
        unchanged = _obey(orders, loaded)
    except (OSError, ImportError) as error:
        _write_line(fd, {"error": str(error)})
        raise
    with open("/proc/uptime") as uptime:
        ready = float(uptime.read().split()[0])
    _write_line(fd, {"ready": ready, "kernel": os.uname().release})
    return unchanged


def _converse(fd: int) -> None:
    """Execute what ``python -c`` was told on the host's side: the first line is the rest of the program.

    execnet's begins with the source of a module that is in memory already.
    """
    import inspect

    from execnet import gateway_base

    _become_stdio(fd)
    program = eval(sys.stdin.readline())
    known = inspect.getsource(gateway_base)
    if program.startswith(known):
        exec(program[len(known) :], {**vars(gateway_base), "__name__": "__main__"})
    else:
        exec(program, {"__name__": "__main__"})


def _converse_in_a_thread(fd: int) -> None:
    """The main thread would wait for ever for what does not come from here."""
    try:
        _converse(fd)
    except BaseException:
        import traceback

        _say("agent failed: " + traceback.format_exc().strip())
        os._exit(1)


def state(path: str) -> list[int]:
    """Modification time and size; zeros for what is not there."""
    try:
        info = os.stat(path)
    except OSError:
        return [0, 0]
    return [info.st_mtime_ns, info.st_size]


def _forget_changed(loaded: Modules) -> bool:
    """Drop the modules whose files are not as they were; returns whether there were none.

    Nobody imports a test file, but a helper may be anywhere.
    """
    import importlib

    importlib.invalidate_caches()
    changed = {file for file, before in loaded.items() if state(file) != before}
    if any(not os.path.basename(file).startswith("test_") for file in changed):
        changed = set(loaded)
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) in changed:
            del sys.modules[name]
    return not changed


def _obey(orders: dict[str, Any], loaded: Modules) -> bool:
    """Become the guest that the host wants: of its own name, time and random numbers."""
    socket.sethostname(orders["name"])
    time.clock_settime(time.CLOCK_REALTIME, orders["time"])
    _reseed(bytes.fromhex(orders["seed"]))
    os.environ.update(orders["env"])
    _mount_all(orders)
    return _forget_changed(loaded)


def _mount_all(orders: dict[str, Any]) -> None:
    for tag, place in orders["mounts"]:
        os.makedirs(place, exist_ok=True)
        if disk := _disk(tag):
            _mount(disk, place, "", MS_RDONLY | MS_NODEV, kind="erofs")
        else:
            options = "trans=virtio,version=9p2000.L,msize=512000,cache=loose"
            _mount(tag, place, options, MS_RDONLY | MS_NODEV, kind="9p")
        link = BYTECODE + place
        if not os.path.lexists(link):
            os.makedirs(os.path.dirname(link), exist_ok=True)
            os.symlink(f"{place}/{PROJECT_BYTECODE}{place}", link)


def _reseed(seed: bytes) -> None:
    """Guests restored from one snapshot share the kernel's and Python's generators: part them (random(4), ioctls)."""
    import fcntl
    import random
    import struct

    RNDADDENTROPY, RNDRESEEDCRNG = 0x40085203, 0x5207
    with open("/dev/random", "wb", buffering=0) as device:
        fcntl.ioctl(device, RNDADDENTROPY, struct.pack("ii", len(seed) * 8, len(seed)) + seed)
        fcntl.ioctl(device, RNDRESEEDCRNG)
    random.seed()


def _become_stdio(fd: int) -> None:
    """The port is standard input and output; standard error goes to the console, where evidence belongs."""
    os.dup2(fd, 0)
    os.dup2(fd, 1)
    with open("/dev/console", "wb", buffering=0) as console:
        os.dup2(console.fileno(), 2)
    os.close(fd)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)  # noqa: SIM115


def _mount(source: str, place: str, options: str = "", flags: int = 0, kind: str = "") -> None:
    """mount(2); the type is the source's name unless given. Raises OSError that names both."""
    if _libc.mount(source.encode(), place.encode(), (kind or source).encode(), flags, options.encode()):
        number = ctypes.get_errno()
        raise OSError(number, f"mount {kind or source} on {place}: {os.strerror(number)}")


def _say(text: str) -> None:
    """A line on the console."""
    try:
        with open("/dev/console", "w") as console:
            console.write(f"kproof: {text}\n")
    except OSError:
        os.write(2, f"kproof: {text}\n".encode())


if __name__ == "__main__":  # virtme-ng's init runs this file
    supervise()
