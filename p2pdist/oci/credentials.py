"""Credentials for registries: docker's `config.json` and credential helper programs. Blocks; called in worker threads.

Secrets are read anew for every token, so that a rotated password counts without a restart; they appear in no repr, no
error and no log.
"""

import base64
import binascii
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec

from p2pdist.core.errors import InvalidInput, Unavailable
from p2pdist.http.interrupt import Interrupt
from p2pdist.oci.reference import DOCKER_HUB

_MAX_CONFIG_BYTES = 1024 * 1024
_HELPER_SECONDS = 10.0
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NOT_FOUND = "credentials not found"
_TOKEN_USER = "<token>"
_HUB_KEY = "https://index.docker.io/v1/"
_HUB_HOSTS = (DOCKER_HUB, "index.docker.io", "registry-1.docker.io")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user and password, or an identity token (an OAuth2 refresh token) in place of both."""

    username: str
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value of an Authorization field (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode("ascii")


class CredentialSource(Protocol):
    """Where the credentials for a registry's host come from."""

    def get(self, host: str, interrupt: Interrupt) -> Credentials | None:
        """What we have for `host` (host[:port]), None for nothing; raises `InvalidInput` or `Unavailable`."""
        ...


@dataclass(frozen=True, slots=True)
class HelperProgram:
    """The program `docker-credential-<name>` (docker/docker-credential-helpers, "Development")."""

    name: str
    timeout_seconds: float = _HELPER_SECONDS

    def __post_init__(self) -> None:
        if _HELPER_NAME.fullmatch(self.name) is None:
            raise InvalidInput(
                f"{self.name[:80]!r} isn't the name of a credential helper; write only what follows docker-credential-"
            )

    def get(self, host: str, interrupt: Interrupt) -> Credentials | None:
        """What the program has for `host`; raises `Unavailable` when it fails or takes too long."""
        program = f"docker-credential-{self.name}"
        status, output = self._run(program, _HUB_KEY if host in _HUB_HOSTS else host, interrupt)
        if status != 0:
            message = output.decode(errors="replace").strip()
            if _NOT_FOUND in message.lower():
                return None
            shown = "" if message.startswith("{") else f": {message[:200]!r}"
            raise Unavailable(f"{program} gives no credentials for {host} (exit code {status}){shown}")
        try:
            answer = msgspec.json.decode(output, type=_HelperAnswer)
        except msgspec.MsgspecError:
            raise Unavailable(f"{program} answers for {host} with something that isn't credentials") from None
        if answer.username == _TOKEN_USER:
            return Credentials("", identity_token=answer.secret)
        return Credentials(answer.username, answer.secret)

    def _run(self, program: str, server: str, interrupt: Interrupt) -> tuple[int, bytes]:
        try:
            process = subprocess.Popen(
                [program, "get"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise Unavailable(
                f"the credential helper {program} can't be run: {error.strerror}; is it in PATH?"
            ) from None
        # The program may have children that hold its output open, so only the end of its whole group ends the wait.
        end = partial(_kill_group, process.pid)
        with process:
            try:
                interrupt.watch(process, end)
                output, _ = process.communicate(server.encode(), timeout=self.timeout_seconds)
            except BaseException as error:
                end()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                raise Unavailable(f"{program} didn't answer within {self.timeout_seconds:g} s") from None
            finally:
                interrupt.release(process)
        interrupt.check()
        return process.returncode, output


@dataclass(frozen=True, slots=True)
class DockerConfig:
    """A docker `config.json`: helper of the host, else the common store, else what stands in the file itself."""

    path: Path

    def __post_init__(self) -> None:
        self._read()

    def get(self, host: str, interrupt: Interrupt) -> Credentials | None:
        """What the file, or the helper that it names, has for `host`."""
        config = self._read()
        for key, helper in config.cred_helpers.items():
            if _host(key) == _host(host):
                return HelperProgram(helper).get(host, interrupt)
        if config.creds_store and (found := HelperProgram(config.creds_store).get(host, interrupt)):
            return found
        return next(filter(None, (self._entry(key, entry) for key, entry in _matching(config, host))), None)

    def _read(self) -> "_Config":
        try:
            with self.path.open("rb") as file:
                data = file.read(_MAX_CONFIG_BYTES + 1)
        except OSError as error:
            raise InvalidInput(f"the credentials file {self.path} can't be read: {error.strerror}") from None
        if len(data) > _MAX_CONFIG_BYTES:
            raise InvalidInput(f"the credentials file {self.path} is over {_MAX_CONFIG_BYTES} bytes")
        try:
            return msgspec.json.decode(data, type=_Config)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise InvalidInput(f"the credentials file {self.path} isn't a docker config.json: {error}") from None

    def _entry(self, key: str, entry: "_Entry") -> Credentials | None:
        username, password = entry.username, entry.password
        if entry.auth:
            try:
                decoded = base64.b64decode(entry.auth, validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                decoded = ""
            username, colon, password = decoded.rstrip("\0").partition(":")
            if not colon:
                raise InvalidInput(f"the auth of {key[:140]!r} in {self.path} isn't base64 of user:password")
        if not (username or entry.identitytoken):
            return None
        return Credentials(username, password, entry.identitytoken)


def credential_source(credentials_file: Path | None, credential_helper: str) -> CredentialSource | None:
    """The source that an upstream's configuration names; raises `InvalidInput` when it names two or a bad one."""
    if credentials_file is not None and credential_helper:
        raise InvalidInput(f"both credentials_file ({credentials_file}) and credential_helper are set; set one")
    if credentials_file is not None:
        return DockerConfig(credentials_file)
    return HelperProgram(credential_helper) if credential_helper else None


class _HelperAnswer(msgspec.Struct, rename="pascal"):
    username: str
    secret: str


class _Entry(msgspec.Struct):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""


class _Config(msgspec.Struct, rename="camel"):
    auths: dict[str, _Entry] = {}
    cred_helpers: dict[str, str] = {}
    creds_store: str = ""


def _matching(config: _Config, host: str) -> Iterator[tuple[str, _Entry]]:
    return ((key, entry) for key, entry in config.auths.items() if _host(key) == _host(host))


def _host(key: str) -> str:
    """The host that a key of the file stands for: keys may carry a scheme and `/v1/` or `/v2/`, as docker once wrote.

    A key with another path is meant for some of the host's repositories only, so it stands for no host.
    """
    host, _, path = key.lower().removeprefix("https://").removeprefix("http://").partition("/")
    if path.strip("/") not in ("", "v1", "v2"):
        return key
    return DOCKER_HUB if host in _HUB_HOSTS else host


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
