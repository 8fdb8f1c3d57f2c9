"""Objects that clang compiled from bpf/*.bpf.c, loaded by libbpf through ctypes: programs and maps by name."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

from selftests.lib import bpf
from selftests.lib.closing import Closing

OBJECTS = Path(__file__).resolve().parents[2] / "build" / "bpf"
"""Where ``kproof run`` puts compiled programs before it starts guests."""

_Printer = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    for name in ("bpf_object__open_file", "bpf_object__find_program_by_name", "bpf_object__find_map_by_name"):
        getattr(library, name).restype = ctypes.c_void_p
    library.bpf_object__open_file.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    library.bpf_object__find_program_by_name.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.bpf_object__find_map_by_name.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    for name in ("bpf_object__load", "bpf_object__close", "bpf_program__fd", "bpf_map__fd"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    library.bpf_object__close.restype = None
    return library


class Object(Closing):
    """A loaded object file. Its programs and maps belong to it and go with it."""

    def __init__(self, name: str) -> None:
        """Load ``build/bpf/<name>.bpf.o``. Raises FileNotFoundError, or OSError with libbpf's errno."""
        path = OBJECTS / f"{name}.bpf.o"
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing; `kproof run` compiles it from bpf/{name}.bpf.c")
        library = _library()
        self._handle = library.bpf_object__open_file(str(path).encode(), None)
        if not self._handle:
            raise OSError(ctypes.get_errno(), f"libbpf cannot open {path.name}: {os.strerror(ctypes.get_errno())}")
        status = library.bpf_object__load(self._handle)
        if status:
            self.close()
            raise OSError(-status, f"libbpf cannot load {path.name}: {os.strerror(-status)}")

    def program(self, name: str) -> bpf.Program:
        """A program by its C name; its descriptor is the object's, so do not close it."""
        found = _library().bpf_object__find_program_by_name(self._handle, name.encode())
        if not found:
            raise KeyError(f"no program {name!r} in the object")
        return bpf.Program(_library().bpf_program__fd(found))

    def map_fd(self, name: str) -> int:
        """A map's descriptor by its C name; it is the object's, so do not close it."""
        found = _library().bpf_object__find_map_by_name(self._handle, name.encode())
        if not found:
            raise KeyError(f"no map {name!r} in the object")
        return int(_library().bpf_map__fd(found))

    def close(self) -> None:
        if self._handle:
            _library().bpf_object__close(self._handle)
            self._handle = None
