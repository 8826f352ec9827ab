"""What lies between the two halves. A link knows no codec: what a transmission holds decides how it crosses."""

from megen.link.radio import Link, NotDeliveredError, PerfectLink, RadioLink

__all__ = ["Link", "NotDeliveredError", "PerfectLink", "RadioLink"]
