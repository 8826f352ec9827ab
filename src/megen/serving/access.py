"""Who may ask, and how much: bearer tokens, limits a token and an address, origins. Without a web framework."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from megen.errors import InputError
from megen.files import read_text
from megen.types import check_number

ANYONE = "anyone"  # whom requests belong to where no token is asked for
LEAST_TOKEN_CHARS = 16
MOST_OWNERS = 10_000  # whose recent requests are counted
MINUTE_S = 60.0
DEFAULT_PORTS = {"http": 80, "https": 443}  # which browsers leave out of an origin


@dataclass(frozen=True)
class Limits:
    """How much one token, and one address, may ask for."""

    requests_a_minute: int = 120
    connections: int = 64  # of one address at a time

    def __post_init__(self) -> None:
        check_number("requests_a_minute", self.requests_a_minute, 1, whole=True)
        check_number("connections", self.connections, 1, whole=True)


class Access:
    """Tokens by the name of who has them (none: anyone may ask), limits, and origins beside the server's own that pages may have."""

    def __init__(
        self,
        tokens: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        origins: tuple[str, ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for origin in origins:
            check_origin(origin)
        self.tokens, self.limits, self.origins, self._clock = dict(tokens or {}), limits or Limits(), origins, clock
        self._recent: OrderedDict[str, deque[float]] = OrderedDict()
        self._connections: Counter[str] = Counter()

    def owner(self, token: str | None) -> str | None:
        """Whose a token is, compared in constant time; None where it is nobody's."""
        if not self.tokens:
            return ANYONE
        given = (token or "").encode()
        matches = [name for name, own in self.tokens.items() if hmac.compare_digest(own.encode(), given)]
        return matches[0] if matches else None

    def payer(self, owner: str, address: str) -> str:
        """Whose requests are counted together: a token's, or where no token is asked for an address's."""
        return owner if self.tokens else address

    def retry_after_s(self, payer: str, count: int = 1) -> float:
        """0 where so many more requests may be made, else when. Errors: InputError where a minute never allows so many."""
        most = self.limits.requests_a_minute
        if count > most:
            raise InputError(f"n: at most {most} pictures a minute may be asked for here, got {count}")
        recent, now_s = self._of_last_minute(payer), self._clock()
        over = len(recent) + count - most
        return recent[over - 1] + MINUTE_S - now_s if over > 0 else 0.0

    def took(self, payer: str, count: int = 1) -> None:
        """Count requests that were taken on."""
        self._of_last_minute(payer).extend([self._clock()] * count)

    def _of_last_minute(self, payer: str) -> deque[float]:
        recent = self._recent.setdefault(payer, deque())
        self._recent.move_to_end(payer)
        while len(self._recent) > MOST_OWNERS:
            self._recent.popitem(last=False)
        while recent and recent[0] <= self._clock() - MINUTE_S:
            recent.popleft()
        return recent

    def enter(self, address: str) -> bool:
        """Count a connection; False, and not counted, where the address has as many as it may."""
        return entered(self._connections, address, self.limits.connections)

    def leave(self, address: str) -> None:
        """A connection is over."""
        left(self._connections, address)

    def origin_allowed(self, origin: str | None, host: str | None) -> bool:
        """Whether a page of that origin may connect: the server's own, one that was named, or no page at all."""
        if origin is None or origin in self.origins:
            return True
        try:
            place = urlsplit(origin).netloc
        except ValueError:  # no URL at all
            return False
        return bool(place) and place == host


def entered(connected: Counter[str], address: str, most: float) -> bool:
    """Count a connection of an address; False, and not counted, where it has as many as it may."""
    if connected[address] >= most:
        return False
    connected[address] += 1
    return True


def left(connected: Counter[str], address: str) -> None:
    """A counted connection is over."""
    connected[address] -= 1
    if connected[address] <= 0:
        del connected[address]


def check_origin(origin: str) -> None:
    """Refuse what no browser would send as an origin. Errors: InputError."""
    try:
        parts = urlsplit(origin)
        port = "" if parts.port in (None, DEFAULT_PORTS.get(parts.scheme)) else f":{parts.port}"
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        good = parts.scheme in DEFAULT_PORTS and bool(host) and origin == f"{parts.scheme}://{host}{port}"
        good = good and origin.isascii() and not any(c.isspace() for c in origin)
    except ValueError:
        good = False
    if not good:
        raise InputError(f"an origin is a scheme, a host and maybe a port, such as https://example.com, got {origin!r}")


def bearer(header: str | None) -> str | None:
    """The token of an `Authorization` header."""
    scheme, _, token = (header or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def read_tokens(path: Path) -> dict[str, str]:
    """Tokens of a file: a line each, `name token` or a token alone; # begins a comment. Errors: InputError naming the line."""
    tokens: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        name, token = words if len(words) == 2 else (f"token-{number}", words[0])
        if len(words) > 2 or len(token) < LEAST_TOKEN_CHARS or not token.isascii() or name in tokens:
            raise InputError(
                f"{path}, line {number}: expected a name of its own and a token of at least {LEAST_TOKEN_CHARS} ASCII characters,"
                f" such as: phone {secrets.token_urlsafe(24)}"
            )
        tokens[name] = token
    if not tokens:
        raise InputError(f"{path} holds no token: write a line such as: phone {secrets.token_urlsafe(24)}")
    return tokens


def check_exposed(host: str, tokens: Mapping[str, str], insecure: bool) -> None:
    """Refuse an address that others can reach without a token. Errors: InputError with the mend."""
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not (loopback or tokens or insecure):
        raise InputError(f"{host} can be reached by others: give --token-file, or --insecure to let anyone in")
