"""nf_tables through libnftables, in this process, in its JSON grammar (libnftables-json(5)): what ``nft -j`` does."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selftests.lib.netns import Namespace
    from selftests.lib.rtnl import Link

_JSON_OUTPUT = 1 << 4
"""NFT_CTX_OUTPUT_JSON: nftables/libnftables.h."""

Statement = Mapping[str, Any]

COUNTER: Statement = {"counter": None}
DROP: Statement = {"drop": None}
ACCEPT: Statement = {"accept": None}


class NftError(Exception):
    """nft refused; the text is what it says."""


@contextmanager
def refusal(text: str, what: str) -> Iterator[None]:
    """The block must raise an NftError that says ``text``; else AssertionError."""
    refused: NftError | None = None
    try:
        yield
    except NftError as error:
        refused = error
    assert refused is not None, f"{what}: expected {text!r}, but it was allowed"
    assert text in str(refused), f"{what}: expected {text!r}, got {refused}"


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL("libnftables.so.1")
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).restype = ctypes.c_char_p
    for name in (
        "nft_ctx_free",
        "nft_ctx_buffer_output",
        "nft_ctx_buffer_error",
        "nft_ctx_get_output_buffer",
        "nft_ctx_get_error_buffer",
    ):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return library


class Nft:
    """nf_tables of one namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self._library = _library()
        self._namespace = namespace
        with namespace.entered():
            self._context = self._library.nft_ctx_new(0)
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)
        self._library.nft_ctx_output_set_flags(self._context, _JSON_OUTPUT)

    def close(self) -> None:
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = None

    def run(self, *commands: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Commands as one transaction; returns the objects that a listing gave. Raises NftError."""
        output = self.run_text(json.dumps({"nftables": list(commands)}))
        return list(json.loads(output)["nftables"]) if output.strip() else []

    def run_text(self, text: str) -> str:
        """Commands in nft's own language (nft(8)), or JSON; returns the output. Raises NftError."""
        with self._namespace.entered():
            status = self._library.nft_run_cmd_from_buffer(self._context, text.encode())
        output = self._library.nft_ctx_get_output_buffer(self._context) or b""
        errors = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if status:
            raise NftError(f"{errors.decode(errors='replace').strip()}\nin {text}")
        return bytes(output).decode()

    def add_chain(
        self,
        link: Link | Sequence[Link],
        *,
        hook: str = "egress",
        table: str = "kproof",
        chain: str = "rules",
        priority: int = 0,
        policy: str = "accept",
        rules: Sequence[str] = (),
    ) -> Chain:
        """A base chain of family netdev on a device or several, in a table that is made if need be.

        ``rules`` are in nft's own language; all of it is one transaction, which takes half the time of several.
        """
        links = link if isinstance(link, Sequence) else [link]
        devices = ", ".join(f'"{one.name}"' for one in links)
        commands = [
            f"add table netdev {table}",
            f"add chain netdev {table} {chain} {{ type filter hook {hook} devices = {{ {devices} }}"
            f" priority {priority}; policy {policy}; }}",
            *(f"add rule netdev {table} {chain} {rule}" for rule in rules),
        ]
        self.run_text("\n".join(commands))
        return Chain(self, table, chain)

    def tables(self) -> set[str]:
        """Names of all tables of family netdev."""
        listed = self.run({"list": {"tables": {"family": "netdev"}}})
        return {item["table"]["name"] for item in listed if "table" in item}

    def delete_table(self, table: str = "kproof") -> None:
        self.run({"delete": {"table": {"family": "netdev", "name": table}}})


class Chain:
    """One chain of family netdev."""

    def __init__(self, nft: Nft, table: str, name: str) -> None:
        self.nft = nft
        self._where = {"family": "netdev", "table": table}
        self._name = name

    def add_rule(self, *statements: Statement) -> None:
        self.nft.run({"add": {"rule": self._where | {"chain": self._name, "expr": [dict(s) for s in statements]}}})

    def rule(self, text: str) -> None:
        """Add a rule in nft's own language: ``udp dport 4001 counter drop``. Raises NftError."""
        self.nft.run_text(f"add rule netdev {self._where['table']} {self._name} {text}")

    def listing(self) -> list[dict[str, Any]]:
        """The chain and its rules."""
        return self.nft.run({"list": {"chain": self._where | {"name": self._name}}})

    def counters(self) -> list[tuple[int, int]]:
        """(packets, bytes) of each counter statement, in the order of the rules."""
        found = []
        for item in self.listing():
            for statement in item.get("rule", {}).get("expr", []):
                if isinstance(counter := statement.get("counter"), dict):
                    found.append((counter["packets"], counter["bytes"]))
        return found

    @property
    def packets(self) -> int:
        """Packets of the first counter."""
        return self.counters()[0][0]

    def flush(self) -> None:
        """Delete all rules; the hook stays."""
        self.nft.run({"flush": {"chain": self._where | {"name": self._name}}})

    def delete(self) -> None:
        """Delete the chain, and its hook with it."""
        self.flush()
        self.nft.run({"delete": {"chain": self._where | {"name": self._name}}})


def match_mark(mark: int) -> Statement:
    """``meta mark MARK``."""
    return match({"meta": {"key": "mark"}}, mark)


def match(left: Mapping[str, Any], right: Any) -> Statement:
    """``LEFT == RIGHT``."""
    return {"match": {"op": "==", "left": dict(left), "right": right}}


def set_mark(mark: int) -> Statement:
    """``meta mark set MARK``."""
    return {"mangle": {"key": {"meta": {"key": "mark"}}, "value": mark}}


def forward_to(link: Link) -> Statement:
    """``fwd to DEVICE``."""
    return {"fwd": {"dev": link.name}}
