"""What lies between the two halves. A link knows no codec: what a transmission holds decides how it crosses."""

from megen.link.radio import Link, NotDeliveredError, PerfectLink, RadioLink
from megen.link.trace import Trace, read_trace

__all__ = ["Link", "NotDeliveredError", "PerfectLink", "RadioLink", "Trace", "read_trace"]
