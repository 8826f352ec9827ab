"""Logs of the server: a JSON object a line on stderr, with the id of the request that it is about."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from megen.serving.request import Served

LOGGERS = ("megen", "uvicorn.error")
FIELDS = ("id", "owner", "state", "steps", "seconds", "bytes", "reason")
log = logging.getLogger("megen.serving")


class Formatter(logging.Formatter):
    """Time, level and message, and those of `FIELDS` that are known."""

    def format(self, record: logging.LogRecord) -> str:
        time_ = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line = {"time": time_, "level": record.levelname.lower(), "message": record.getMessage()}
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


@contextmanager
def structured() -> Iterator[None]:
    """Write the loggers of server and library as JSON lines, until the block ends."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter())
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def request_ended(served: Served) -> None:
    """A line for a request that is over at the server."""
    fields = {"id": served.id, "owner": served.owner, "state": served.state, "steps": served.decided.decision.steps}
    fields |= {"seconds": round(served.ended_s - served.arrived_s, 4), "bytes": sum(len(p.data) for p in served.pieces)}
    if served.state == "failed":
        fields["reason"] = getattr(served.last, "message", "")
    log.info("request", extra=fields)
