"""Transcripts in documents: made by `make docs`, and of the session as it is now."""

from __future__ import annotations

import pytest

from ci.docs import BLOCKS, Block
from ci.session import echo_reply
from harness.paths import project_root
from selftests.lib import packet

DOCS = project_root() / "docs"
SESSIONS = {block: DOCS.parent / block.program[1] for block in BLOCKS if block.program[0] == "ci/session.py"}
PROMPT = "# "

MADE = Block("it", "table", ("it.py",))
BEGIN, END = MADE.begin, MADE.end


def name(block: Block) -> str:
    return f"{block.document}-{block.name}"


@pytest.mark.parametrize("block", BLOCKS, ids=name)
def test_document_has_what_is_made(block: Block) -> None:
    """Between the markers of every block stands an output."""
    assert block.parts((DOCS / f"{block.document}.md").read_text())[1].strip()


@pytest.mark.parametrize("block", SESSIONS, ids=name)
def test_document_shows_the_commands_of_its_session(block: Block) -> None:
    """A session that was edited since is made again: make docs."""
    shown = block.parts((DOCS / f"{block.document}.md").read_text())[1].splitlines()
    commands = [line.removeprefix(PROMPT) for line in shown if line.startswith(PROMPT)]
    assert commands == [line for line in SESSIONS[block].read_text().splitlines() if line]


def test_every_session_is_shown() -> None:
    assert set(SESSIONS.values()) == set((DOCS / "transcripts").glob("*.sh"))


def test_parts_of_a_document() -> None:
    assert MADE.parts(f"before\n{BEGIN}# ls\n{END}after\n") == ("before\n", "# ls\n", "after\n")


@pytest.mark.parametrize("document", ["", BEGIN, END + BEGIN, BEGIN + END + END, BEGIN + BEGIN + END])
def test_markers_that_are_not_a_pair_are_refused(document: str) -> None:
    with pytest.raises(ValueError, match="markers"):
        MADE.parts(document)


def test_echo_reply() -> None:
    """Addresses exchanged, type 0, same identifier, sequence number and data, both checksums right."""
    here, there = bytes.fromhex("020000000801"), bytes.fromhex("020000000802")
    request = packet.echo_request(src="10.8.0.1", dst="10.8.0.2", identifier=7, sequence=3, payload=b"odd")
    reply = echo_reply(packet.ethernet(request, dst=there, src=here, ethertype=packet.ETH_P_IP))
    assert reply is not None
    assert reply[:14] == here + there + b"\x08\0"
    assert (reply[26:30], reply[30:34]) == (bytes([10, 8, 0, 2]), bytes([10, 8, 0, 1]))
    assert (reply[34:36], reply[38:]) == (b"\0\0", request[24:])
    assert (packet.checksum(reply[14:34]), packet.checksum(reply[34:])) == (0, 0)


def test_nothing_else_is_answered() -> None:
    udp = packet.udp(b"x" * 8, src="10.8.0.1", dst="10.8.0.2", sport=8, dport=8)
    for ethertype, payload in ((packet.ETH_P_IP, udp), (packet.ETH_P_ARP, b"\x08" * 46)):
        assert echo_reply(packet.ethernet(payload, dst=b"\2" * 6, src=b"\4" * 6, ethertype=ethertype)) is None
