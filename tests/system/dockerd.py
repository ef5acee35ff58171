"""A dockerd of the test's own: own roots, socket and configuration, no network for containers; asked over its socket.

It runs, with the containerd that it starts, in a process and a mount namespace of its own. When it ends, the kernel
ends what runs in it and undoes its mounts, whatever state they were in.
"""

import base64
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from typing import Self
from urllib.parse import quote

from simulations.processes import Process
from tests.system.clients import CLIENT_SECONDS, ClientFailed
from tests.system.tokens import Account

_START_SECONDS = 20
_ALONE = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--propagation", "private"]


class Dockerd:
    """The daemon; `launcher` is put before it (a namespace), `environment` is added to its own."""

    def __init__(
        self,
        directory: Path,
        config: Path,
        *,
        launcher: Sequence[str | Path] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._directory = directory
        self._config = config
        self._launcher = launcher
        self._environment = environment
        self._socket = directory / "docker.sock"
        self._cleanup = ExitStack()
        self._process: Process | None = None
        self._starts = 0

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, self._directory, ignore_errors=True)
            stack.callback(self._kill)
            self._start()
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._cleanup.close()

    def _start(self) -> None:
        at = self._directory
        options = ["--config-file", self._config, "--data-root", at / "data", "--exec-root", at / "exec"]
        options += ["--pidfile", at / "pid", "--host", f"unix://{self._socket}", "--storage-driver", "vfs"]
        argv = [*self._launcher, *_ALONE, "dockerd", *options, "--iptables=false", "--bridge=none"]
        # The id that an earlier containerd had is somebody else's in the new process namespace, and would pass for it.
        (at / "exec/containerd/containerd.pid").unlink(missing_ok=True)
        log = at.with_name(f"dockerd-{self._starts}.log")
        self._starts += 1
        self._process = process = Process(argv, log=log, environment=self._environment)
        process.wait_until(lambda: "API listen on" in process.output(), "dockerd listens", _START_SECONDS)

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def restart(self) -> None:
        """End it and start it again."""
        self._kill()
        (self._directory / "pid").unlink(missing_ok=True)
        self._start()

    def reload(self) -> None:
        """Let it read its configuration again, as `systemctl reload docker` does; returns when it has."""
        assert self._process is not None
        reloads = self._process.output().count("Reloaded configuration")
        # `unshare` waits for its child, which is process 1 of the namespace.
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        (child,) = children
        os.kill(int(child), signal.SIGHUP)
        self._process.wait_until(
            lambda: self._process is not None and self._process.output().count("Reloaded configuration") > reloads,
            "dockerd has read its configuration again",
        )

    def pull(self, repository: str, tag: str, account: Account | None = None) -> float:
        """Pull an image; returns how many seconds that took, raises `ClientFailed`."""
        started = time.monotonic()
        shown = {"X-Registry-Auth": _auth(account)} if account is not None else {}
        lines = self._ask("POST", f"/images/create?fromImage={quote(repository, safe='')}&tag={tag}", **shown)
        errors = [line["error"] for line in map(json.loads, lines.splitlines()) if "error" in line]
        if errors:
            raise ClientFailed(f"docker pull {repository}:{tag}: {errors}")
        return time.monotonic() - started

    def push(self, pulled: str, repository: str, tag: str) -> None:
        """Name an image that is here and push it by that name, without credentials; raises `ClientFailed`."""
        self._ask("POST", f"/images/{quote(pulled, safe='')}/tag?repo={quote(repository, safe='')}&tag={tag}", 201)
        lines = self._ask("POST", f"/images/{repository}/push?tag={tag}", **{"X-Registry-Auth": "e30="})
        errors = [line["error"] for line in map(json.loads, lines.splitlines()) if "error" in line]
        if errors:
            raise ClientFailed(f"docker push {repository}:{tag}: {errors}")

    def remove(self, reference: str) -> None:
        """Remove an image and its layers."""
        self._ask("DELETE", f"/images/{reference}?force=1")

    def _ask(self, method: str, target: str, expected: int = 200, **headers: str) -> str:
        connection = HTTPConnection("localhost", timeout=CLIENT_SECONDS)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(CLIENT_SECONDS)
        try:
            connection.sock.connect(str(self._socket))
            connection.request(method, target, headers=headers)
            with connection.getresponse() as response:
                body = response.read().decode()
                if response.status != expected:
                    raise ClientFailed(f"dockerd: {method} {target}: {response.status} {body}")
                return body
        finally:
            connection.close()


def _auth(account: Account) -> str:
    """The account as dockerd is told it (Docker Engine API, "Authentication")."""
    return base64.urlsafe_b64encode(
        json.dumps({"username": account.user, "password": account.password}).encode()
    ).decode()
