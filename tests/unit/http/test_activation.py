"""Sockets that an activator holds: which are ours, which aren't, and what is wrong with them."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest

from p2pdist.core.errors import InvalidInput
from p2pdist.http import activation
from p2pdist.http.activation import Inherited

_SHOW = """
import os, trio
from p2pdist.http.activation import Inherited
async def main():
    inherited = Inherited.take()
    for name, address in (("shim", os.environ["SHIM"]), ("admin", "127.0.0.1:0")):
        listeners, held_open = await inherited.open(name, address)
        print(name, held_open, listeners[0].socket.getsockname()[1], os.get_inheritable(listeners[0].socket.fileno()))
        for listener in listeners:
            await listener.aclose()
    print(sorted(name for name in os.environ if name.startswith("LISTEN_")))
    inherited.check_none_left()
trio.run(main)
"""


def activated(program: str, sockets: Sequence[socket.socket], names: str, **environment: str) -> list[str]:
    """The lines that a Python program prints which is started with `sockets` as systemd does it."""
    redirect = "".join(f"exec {3 + at}<&{sock.fileno()}; " for at, sock in enumerate(sockets))
    exec_it = f'{redirect}LISTEN_PID=$$ LISTEN_FDS={len(sockets)} LISTEN_FDNAMES={names} exec "$@"'
    done = subprocess.run(
        ["bash", "-c", exec_it, "bash", sys.executable, "-c", program],
        pass_fds=[sock.fileno() for sock in sockets],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return (done.stdout + done.stderr).splitlines()


def address_of(sock: socket.socket) -> str:
    return "{}:{}".format(*sock.getsockname())


def test_a_socket_is_found_by_name_and_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as shim:
        lines = activated(_SHOW, [shim], "shim", SHIM=address_of(shim))
    assert lines[0] == f"shim True {shim_port(lines[0])} False"
    assert lines[1].startswith("admin False ")
    assert lines[2:] == ["[]"]


def shim_port(line: str) -> int:
    return int(line.split()[2])


def test_a_socket_that_nobody_asks_for_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as shim, socket.create_server(("127.0.0.1", 0)) as other:
        lines = activated(_SHOW, [shim, other], "shim:shim", SHIM=address_of(shim))
        assert f"sockets that the configuration doesn't name: shim on {address_of(other)};" in lines[-1]


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


async def test_what_is_for_another_process_is_not_ours() -> None:
    with environment(LISTEN_PID=str(os.getpid() + 1), LISTEN_FDS="1", LISTEN_FDNAMES="shim"):
        inherited = Inherited.take()
        assert "LISTEN_FDS" not in os.environ
    inherited.check_none_left()
    listeners, held_open = await inherited.open("shim", "127.0.0.1:0")
    assert not held_open
    for listener in listeners:
        await listener.aclose()


@pytest.mark.parametrize("count", ["", "-1", "x", "65", "²"])
def test_a_count_that_is_none(count: str) -> None:
    with (
        environment(LISTEN_PID=str(os.getpid()), LISTEN_FDS=count),
        pytest.raises(InvalidInput, match="isn't a number from 0 to 64"),
    ):
        Inherited.take()


@pytest.mark.parametrize("kind", ["file", "datagrams", "connected", "unix"])
def test_descriptors_that_are_no_listening_sockets(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        match kind:
            case "file":
                number = stack.enter_context(open(os.devnull)).fileno()
            case "datagrams":
                number = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)).fileno()
            case "connected":
                one, other = socket.socketpair()
                stack.enter_context(other)
                number = stack.enter_context(one).fileno()
            case _:
                number = stack.enter_context(socket.socket(socket.AF_UNIX)).fileno()
        monkeypatch.setattr(activation, "_FIRST_DESCRIPTOR", number)
        with (
            environment(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="shim"),
            pytest.raises(InvalidInput, match=rf"descriptor {number} \(shim\) isn't a"),
        ):
            Inherited.take()
