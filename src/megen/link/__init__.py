"""What lies between the two halves. A link knows no codec: what a transmission holds decides how it crosses."""

from megen.link.radio import Connection, Link, NotDeliveredError, PerfectLink, RadioLink
from megen.link.trace import Trace, read_trace

__all__ = ["Connection", "Link", "NotDeliveredError", "PerfectLink", "RadioLink", "Trace", "read_trace"]
