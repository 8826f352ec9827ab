"""What became of requests: a line each in a JSONL log that `megen control fit` reads, and counters."""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megen.control.fit import Request
from megen.control.policy import snr_db_of
from megen.types import ChannelState

if TYPE_CHECKING:
    from megen.serving.request import Served

SOCKET_HZ = 1e6  # over a socket, the SNR that is logged is the one at which this bandwidth has the rate


class Outcomes:
    """Writes the log at `path` (None: nowhere); what cannot be written is counted, and the server goes on.

    `on_end` is called with every request that is over.
    """

    def __init__(self, path: Path | None = None, on_end: Callable[[Served], None] = lambda served: None) -> None:
        self.path, self.on_end, self.unwritten = path, on_end, 0
        self._lock = threading.Lock()

    def shown(self, served: Served, decode_s: float, latency_s: float) -> Request | None:
        """Log a request whose picture is shown; once."""
        if served.logged:
            return None
        served.logged = True
        decision, budget = served.decided.decision, served.asked
        here_s = served.seconds.get("es_decode", 0.0)  # where this server decodes, it stands for the user equipment
        request = Request(
            arrival_s=served.arrived_s,
            snr_db=equivalent_snr_db(served.channel),
            steps=decision.steps,
            merge_ratio=decision.merge_ratio,
            quantiser_bits=decision.quantiser_bits,
            es_s=served.work_s - here_s,
            air_s=served.air_s,
            ue_s=decode_s + here_s,
            backlog_s=served.backlog_s,
            latency_s=latency_s,
            deadline_s=budget.deadline_s,
            energy_j=budget.energy_j,
        )
        self._write({**json.loads(request.line()), **self._about(served), "status": "shown"})
        return request

    def ended(self, served: Served) -> None:
        """A request is over at the server; one that was not sent is logged at once."""
        self.on_end(served)
        if served.state != "sent":
            self._unseen(served, served.state)

    def forgotten(self, served: Served) -> None:
        """Nobody said that a request's picture was shown, nor will: it is no longer kept, or was not for a phone to show."""
        if served.state == "sent" and not served.logged:
            self._unseen(served, "unseen")

    def _unseen(self, served: Served, status: str) -> None:
        served.logged = True
        decision = asdict(served.decided.decision)
        self._write({"arrival_s": served.arrived_s, "decision": decision, **self._about(served), "status": status})

    def _about(self, served: Served) -> dict[str, Any]:
        return {"id": served.id, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "rate_bps": served.channel.rate_bps or None}

    def _write(self, line: dict[str, Any]) -> None:
        if self.path is None:
            return
        data = (json.dumps(line, allow_nan=False) + "\n").encode()
        try:
            with self._lock, self.path.open("ab", buffering=0) as file:
                before = file.seek(0, os.SEEK_END) if file.seekable() else None
                if file.write(data) < len(data):
                    if before is not None:  # a part of a line would spoil the next one too
                        file.truncate(before)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self.unwritten += 1
            if self.unwritten == 1:
                print(f"megen: the log {self.path} cannot be written ({error}): requests go on without it", file=sys.stderr)


def equivalent_snr_db(channel: ChannelState) -> float:
    """The SNR of a channel, or of a socket the one at which `SOCKET_HZ` has its rate."""
    if channel.snr_db is not None or not channel.rate_bps:
        return channel.snr_db or 0.0
    return snr_db_of(ChannelState(None, channel.bandwidth_hz or SOCKET_HZ, channel.rate_bps))
