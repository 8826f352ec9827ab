"""Engines on several machines: replicas of `LocalEngine` under Ray Serve, behind the one method of `Engine`.

The app holds the sockets and the queue; a request is a function of its job alone, so one whose replica dies runs on another.
Ray's daemons listen without authentication: they belong in a private network (`docs/deploy.md`).
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError, RayError, RayTaskError

from megen.errors import InputError, MegenError, RunError
from megen.serving.job import EngineLostError, Job, JobEvent
from megen.types import check_number

APP = "megen"


@dataclass(frozen=True)
class Cluster:
    """Replicas from `least` to `most`, by how many requests each has; `address` None: a cluster of this machine alone.

    Errors: InputError on numbers that cannot be, and on an address that is not private.
    """

    least: int = 1
    most: int = 1
    address: str | None = None
    cpus: float = 1.0  # of a replica
    gpus: float = 0.0

    def __post_init__(self) -> None:
        check_number("least", self.least, 1, whole=True)
        check_number("most", self.most, self.least, whole=True)
        check_number("cpus", self.cpus, 0)
        check_number("gpus", self.gpus, 0)
        if self.address is not None:
            check_private(self.address)


def check_private(address: str) -> None:
    """Refuse an address that is not of a private network. Errors: InputError."""
    host = address.removeprefix("ray://").rpartition(":")[0] or address
    try:
        private = ipaddress.ip_address(host).is_private
    except ValueError:
        raise InputError(f"--cluster takes the private address of Ray's head, such as 10.0.0.5:6379, got {address!r}") from None
    if not private:
        raise InputError(f"{host} is a public address, and Ray's daemons ask nobody for a password: use one of a private network")


class Replica:
    """One engine in a process of Ray's."""

    def __init__(self, backbone: str, device: str, rows: int) -> None:
        from megen.halves import transmitter_of
        from megen.serving.engine import LocalEngine

        self.engine = LocalEngine(transmitter_of(backbone, device), rows=rows)

    def pid(self) -> int:
        """The number of the process."""
        return os.getpid()

    async def run(self, job: Job) -> AsyncIterator[JobEvent | MegenError]:
        """The events of one job; an error is the last of them, as Ray would wrap it where it is raised."""
        try:
            async for event in self.engine.run(job):
                yield event
        except MegenError as error:
            yield error


class ClusterEngine:
    """An `Engine` whose jobs run on replicas; `rows` is what all of them together run at once."""

    def __init__(self, cluster: Cluster, backbone: str, device: str, rows: int) -> None:
        ray.init(address=cluster.address or "local", log_to_driver=False, include_dashboard=False, _node_ip_address="127.0.0.1")
        scaling = {"min_replicas": cluster.least, "max_replicas": cluster.most, "target_ongoing_requests": rows}
        options: dict[str, Any] = {"ray_actor_options": {"num_cpus": cluster.cpus, "num_gpus": cluster.gpus}}
        deployment = serve.deployment(Replica, max_ongoing_requests=rows, autoscaling_config=scaling, **options)
        serve.start(proxy_location="Disabled")
        self.handle = serve.run(deployment.bind(backbone, device, rows), name=APP, route_prefix=None).options(stream=True)

    async def run(self, job: Job) -> AsyncIterator[JobEvent]:
        """The events of one job. Errors: as `Engine.run`."""
        answers = self.handle.run.remote(job)
        try:
            async for event in answers:
                if isinstance(event, MegenError):
                    raise event
                yield event
        except RayActorError as error:
            raise EngineLostError(f"a replica died: {error}") from error
        except RayTaskError as error:
            raise RunError(f"a replica failed: {error.cause}") from error
        except RayError as error:
            raise EngineLostError(f"a replica cannot be reached: {error}") from error
        finally:
            answers.cancel()

    def close(self) -> None:
        """Stop the replicas."""
        serve.shutdown()
        ray.shutdown()
