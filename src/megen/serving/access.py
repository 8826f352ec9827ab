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

    def retry_after_s(self, owner: str) -> float:
        """0 where the owner may make one more request, which is counted; else when."""
        now_s = self._clock()
        recent = self._recent.setdefault(owner, deque())
        self._recent.move_to_end(owner)
        while len(self._recent) > MOST_OWNERS:
            self._recent.popitem(last=False)
        while recent and recent[0] <= now_s - MINUTE_S:
            recent.popleft()
        if len(recent) >= self.limits.requests_a_minute:
            return recent[0] + MINUTE_S - now_s
        recent.append(now_s)
        return 0.0

    def enter(self, address: str) -> bool:
        """Count a connection; False, and not counted, where the address has as many as it may."""
        if self._connections[address] >= self.limits.connections:
            return False
        self._connections[address] += 1
        return True

    def leave(self, address: str) -> None:
        """A connection is over."""
        self._connections[address] -= 1
        if self._connections[address] <= 0:
            del self._connections[address]

    def origin_allowed(self, origin: str | None, host: str | None) -> bool:
        """Whether a page of that origin may connect: the server's own, one that was named, or no page at all."""
        return origin is None or urlsplit(origin).netloc == host or origin in self.origins


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
        if len(words) > 2 or len(token) < LEAST_TOKEN_CHARS or name in tokens:
            raise InputError(
                f"{path}, line {number}: expected a name of its own and a token of at least {LEAST_TOKEN_CHARS} characters,"
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
