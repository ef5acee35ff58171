"""`p2pdist pki`: the tracker's CA and its join tokens, on the tracker's host. The tracker may be running meanwhile."""

import argparse
import os
import pwd
import shlex
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from p2pdist.config import PeerAddress
from p2pdist.core.errors import InvalidInput, NotFound
from p2pdist.core.units import parse_duration
from p2pdist.pki import certificates, files, revocations, tokens
from p2pdist.pki.authority import Authority, server_names
from p2pdist.pki.certificates import Validity, format_time
from p2pdist.pki.errors import CredentialError
from p2pdist.pki.peers import id_of, is_id
from p2pdist.pki.vouch import Signer

_SAYS = "The tracker's CA and its join tokens. Run it on the tracker's host, as the tracker's user; it may be running."
_CONTROL_PORT = 7400
DEFAULT_STATE_DIR = Path("/var/lib/p2pdist/tracker")


def add_parser(subparsers: Any) -> None:
    """Put `pki` and its commands among the commands of `p2pdist`."""
    parser = subparsers.add_parser("pki", help="the tracker's CA and join tokens", description=_SAYS)
    commands = parser.add_subparsers(dest="pki_command", required=True, metavar="COMMAND")

    def command(name: str, action: Callable[[argparse.Namespace], int], says: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = commands.add_parser(name, help=says, description=says)
        added.set_defaults(pki_action=action)
        added.add_argument(
            "--state-dir", type=Path, default=DEFAULT_STATE_DIR, help="the tracker's state_dir (default: %(default)s)"
        )
        return added

    init = command("init", _init, "make the CA, the tracker's certificate and the signing key, if they aren't there")
    init.add_argument(
        "--name",
        action="append",
        dest="names",
        metavar="NAME",
        help="a host name or IP address of the tracker, for its certificate; may be given several times",
    )
    token = command("token", _token, "make a join token and print the command that uses it")
    token.add_argument(
        "--ttl", default="24h", help="how long it may be used, such as 30m, 24h, 7d (default: %(default)s)"
    )
    token.add_argument(
        "--tracker", metavar="HOST:PORT", help="where agents reach it (default: a name in its certificate, port 7400)"
    )
    token.add_argument("--uses", type=int, default=1, help="how many agents it lets in (default: %(default)s)")
    command("tokens", _tokens, "list the join tokens")
    revoke = command("revoke", _revoke, "take a join token back, or shut an agent out")
    revoke.add_argument("what", metavar="TOKEN|AGENT", help="a token, a token's id, or an agent's id (32 hex digits)")
    command("show", _show, "print the CA's hash, and when the certificates end")


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say; returns the exit code."""
    _check_owner(args.state_dir)
    action: Callable[[argparse.Namespace], int] = args.pki_action
    return action(args)


def _init(args: argparse.Namespace) -> int:
    directory = _pki_directory(args)
    if Authority.present(directory):
        authority = Authority.load(directory)
        print(f"The CA in {directory} is there already; it stays as it is.")
    else:
        # Asked for first: a name that can't stand in a certificate must not leave half a PKI behind.
        names = args.names or [socket.gethostname(), "localhost"]
        certificates.alternative_names(names)
        authority = Authority.create(directory, names[0])
        print(f"Made the CA {directory / 'ca.pem'}.")
        args.names = names
    credentials = authority.server_credentials(args.names)
    names_now = server_names(certificates.parse_certificate(files.read(credentials.certificate), "server.pem"))
    print(f"The tracker's certificate is for {', '.join(names_now)}.")
    Signer.open(directory)
    print(f"CA hash: {authority.ca_hash}")
    place = "" if args.state_dir == DEFAULT_STATE_DIR else f" --state-dir {shlex.quote(str(args.state_dir))}"
    print(f"Make a join token with: p2pdist pki token{place}")
    print("Each agent joins with:  " + _join_command("TOKEN", authority, _address(names_now)))
    return 0


def _token(args: argparse.Namespace) -> int:
    authority = Authority.load(_pki_directory(args))
    token = tokens.create(_database(args), ttl_seconds=parse_duration(args.ttl), uses=args.uses)
    print(token)
    print(_join_command(token, authority, PeerAddress(args.tracker) if args.tracker else _known_address(args)))
    return 0


def _tokens(args: argparse.Namespace) -> int:
    now = time.time()
    rows = [("ID", "STATE", "USED", "CREATED", "EXPIRES")]
    for token in tokens.listed(_database(args)):
        used = f"{len(token.used_by)}/{token.uses}"
        rows.append((token.id, token.state(now), used, _time(token.created_at), _time(token.expires_at)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _revoke(args: argparse.Namespace) -> int:
    if is_id(args.what):
        revocations.revoke(_database(args), args.what)
        print(f"Agent {args.what} is shut out: it gets no lease and no certificate any more.")
        return 0
    token = tokens.revoke(_database(args), args.what)
    print(f"Join token {token.id} is revoked; it had let in {len(token.used_by)} of {token.uses} agents, who stay.")
    for agent_id in token.used_by:
        print(f"  {agent_id}  (shut out with: p2pdist pki revoke {agent_id})")
    return 0


def _show(args: argparse.Namespace) -> int:
    directory = _pki_directory(args)
    authority = Authority.load(directory)
    print(f"CA hash:             {authority.ca_hash}")
    print(f"CA ends:             {format_time(authority.validity.not_after)}")
    server = directory / "server.pem"
    if server.exists():
        certificate = certificates.parse_certificate(files.read(server), str(server))
        public_key = certificates.public_key_of(certificate)
        validity = Validity.of(certificate)
        tracker_id = id_of(public_key) if public_key else "unknown"
        print(f"Tracker:             {tracker_id}, for {', '.join(server_names(certificate))}")
        renewed = format_time(validity.renew_after)
        print(f"Tracker's cert ends: {format_time(validity.not_after)}; renewed from {renewed}")
    else:
        print("Tracker's cert:      none yet; the tracker makes one when it starts")
    for agent_id, when in revocations.listed(_database(args)).items():
        print(f"Agent shut out:      {agent_id}, at {_time(when)}")
    return 0


def _join_command(token: str, authority: Authority, tracker: str) -> str:
    return f"p2pdist agent --tracker {tracker} --join {token} --ca-hash {authority.ca_hash}"


def _known_address(args: argparse.Namespace) -> str:
    """Where agents reach the tracker, by its certificate; a gap to fill in when it has none yet."""
    server = _pki_directory(args) / "server.pem"
    if not server.exists():
        return "HOST:PORT"
    return _address(server_names(certificates.parse_certificate(files.read(server), str(server))))


def _address(names: list[str]) -> str:
    host = next((name for name in names if name != "localhost"), "localhost")
    return f"[{host}]:{_CONTROL_PORT}" if ":" in host else f"{host}:{_CONTROL_PORT}"


def _pki_directory(args: argparse.Namespace) -> Path:
    directory: Path = args.state_dir / "pki"
    return directory


def _database(args: argparse.Namespace) -> Path:
    state_dir: Path = args.state_dir
    if not state_dir.is_dir():
        raise NotFound(
            f"there is no tracker state in {state_dir}; make it with: p2pdist pki init --state-dir {state_dir}"
        )
    return state_dir / "tracker.sqlite"


def _check_owner(state_dir: Path) -> None:
    """Refuse to leave files of ours in somebody else's state: the tracker couldn't write its own database any more."""
    try:
        owner = state_dir.stat().st_uid
    except FileNotFoundError:
        return
    except OSError as error:
        raise CredentialError(f"{state_dir} can't be read: {error.strerror}") from error
    if owner != os.geteuid():
        try:
            name = pwd.getpwuid(owner).pw_name
        except KeyError:
            name = f"#{owner}"
        raise InvalidInput(
            f"{state_dir} belongs to {name}; run this command as that user: sudo -u '{name}' p2pdist pki …"
        )


def _time(seconds: float) -> str:
    return format_time(datetime.fromtimestamp(seconds, UTC))
