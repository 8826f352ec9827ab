"""A network namespace whose link to this machine carries at most a rate (`tc tbf`). Linux, as root; needs iproute2."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator

NAME, OUTER, INNER = "megen-ue", "megen-es0", "megen-ue0"
SERVER, CLIENT = "10.231.77.1", "10.231.77.2"
NEW_NETWORK = 0x40000000  # CLONE_NEWNET
BURST_BYTES = 3000  # two packets
LATENCY_MS = 400  # what waits longer before the link is dropped


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"ip {' '.join(words)}: {done.stderr.strip()} (this needs root and iproute2)")


def _drop() -> None:
    for words in (("link", "del", OUTER), ("netns", "del", NAME)):
        subprocess.run(["ip", *words], check=False, capture_output=True)


def _enter(file: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(file, NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "this thread cannot change its network namespace")


@contextlib.contextmanager
def linked() -> Iterator[Callable[[float], None]]:
    """A namespace behind a pair of virtual interfaces; a call bounds what the server at `SERVER` sends into it, in bit/s."""
    _drop()  # what a run that was killed has left
    _ip("netns", "add", NAME)
    try:
        _ip("link", "add", OUTER, "type", "veth", "peer", "name", INNER, "netns", NAME)
        _ip("addr", "add", f"{SERVER}/30", "dev", OUTER)
        _ip("link", "set", OUTER, "up")
        _ip("-n", NAME, "addr", "add", f"{CLIENT}/30", "dev", INNER)
        _ip("-n", NAME, "link", "set", INNER, "up")

        def at_most(rate_bps: float) -> None:
            shape = ["tbf", "rate", f"{rate_bps:.0f}bit", "burst", str(BURST_BYTES), "latency", f"{LATENCY_MS}ms"]
            subprocess.run(["tc", "qdisc", "replace", "dev", OUTER, "root", *shape], check=True, capture_output=True)

        yield at_most
    finally:
        _drop()


@contextlib.contextmanager
def inside() -> Iterator[None]:
    """This thread, and those that it starts, open their sockets in the namespace."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    theirs = os.open(f"/run/netns/{NAME}", os.O_RDONLY)
    try:
        _enter(theirs)
        yield
    finally:
        _enter(own)
        os.close(own)
        os.close(theirs)
