"""Callers of a shim: somebody with an account, who answers a challenge as container daemons do, and nobody."""

import json
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from p2pdist.wire.channel import Frames
from p2pdist.wire.messages import VERSION, FromTracker, Hello, Message, Reader, encode
from tests.system.daemons import Agent, Tracker
from tests.system.fetches import get
from tests.system.fleet import UPSTREAM
from tests.system.images import INDEX_TYPE, MANIFEST_TYPE, Content, Image
from tests.system.tokens import Account

_SECONDS = 20
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Answer:
    """What a shim answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    def gives(self, content: Content) -> bool:
        """Whether any of the content's bytes are in it."""
        return any(content.data[at : at + 64] in self.body for at in range(0, content.size_bytes - 64, 4096))


class Caller:
    """Somebody on a host: with an `account` he gets a token for a challenge, with a `token` he shows that one."""

    def __init__(self, account: Account | None = None, token: str = "") -> None:
        self.account = account
        self.token = token

    def ask(self, agent: Agent, path: str, method: str = "GET", **headers: str) -> Answer:
        """One request, repeated with a token if that is what it takes."""
        accept = {"Accept": f"{INDEX_TYPE}, {MANIFEST_TYPE}"} if "/manifests/" in path else {}
        shown = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        answer = Answer(*get(agent, f"{path}?ns={UPSTREAM}", method, **accept, **shown, **headers))
        if answer.status != 401 or self.account is None or self.token:
            return answer
        self.token = self.token_for(answer.headers["www-authenticate"])
        return self.ask(agent, path, method, **headers)

    def token_for(self, challenge: str) -> str:
        """What the token server that a challenge names gives for the account."""
        asked = dict(_CHALLENGE.findall(challenge))
        query = urlencode({name: asked[name] for name in ("service", "scope")})
        request = Request(f"{asked['realm']}?{query}")
        if self.account is not None:
            request.add_header("Authorization", self.account.authorization)
        with urlopen(request, timeout=_SECONDS) as response:
            token: str = json.load(response)["token"]
        return token

    def manifest(self, agent: Agent, repository: str, reference: str) -> Answer:
        return self.ask(agent, f"/v2/{repository}/manifests/{reference}")

    def blob(self, agent: Agent, repository: str, blob: Content, method: str = "GET", **headers: str) -> Answer:
        return self.ask(agent, f"/v2/{repository}/blobs/{blob.digest}", method, **headers)

    def pull(self, agent: Agent, repository: str, tag: str, image: Image) -> None:
        """The whole image, every byte of it right."""
        found = self.manifest(agent, repository, tag)
        assert (found.status, found.body) == (200, image.manifest.data), f"{found}\n{agent.log_tail()}"
        for blob in {blob.digest: blob for blob in image.blobs}.values():
            answer = self.blob(agent, repository, blob)
            assert (answer.status, answer.body == blob.data) == (200, True), f"{answer}\n{agent.log_tail()}"


class Insider:
    """A program that has stolen the certificate of an agent, which must be stopped, and speaks to the tracker."""

    def __init__(self, tracker: Tracker, agent: Agent, node: str, swarm_port: int) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        identity = agent.state_dir / "identity"
        context.load_cert_chain(identity / "agent.pem", identity / "agent.key")
        plain = socket.create_connection(("127.0.0.1", tracker.control_port), _SECONDS)
        self._connection = context.wrap_socket(plain)
        self._frames = Frames(1 << 23)
        self._reader = Reader(FromTracker)
        self.heard: list[Any] = []
        self.say(Hello(VERSION, (), "insider", node, "insider", "", "", 1, "", swarm_port))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._connection.close()

    def say(self, message: Message) -> None:
        frame = encode(message)
        self._connection.sendall(len(frame).to_bytes(4, "big") + frame)

    def hear(self, *kinds: type[M]) -> M:
        """The next message of one of these kinds."""
        while True:
            for frame in self._frames.take():
                message = self._reader.decode(frame)
                self.heard.append(message)
                if isinstance(message, kinds):
                    return message
            received = self._connection.recv(65536)
            assert received, f"the tracker hung up: {self.heard}"
            self._frames.feed(received)
