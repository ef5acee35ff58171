"""Who got something from the shim last: the proof that a container runtime really goes through this agent.

Clients are told apart by their User-Agent. Only what was answered to its end counts: a manifest (HEAD too, by which
containerd and Docker ask whether a tag has moved), or a blob or a part of one.
"""

import re
from collections import OrderedDict
from collections.abc import Callable

import trio

from p2pdist.agent.report import Client, Served
from p2pdist.http.server import Handler, Request, Response
from p2pdist.runtimes.known import runtime_of

_KEPT_CLIENTS = 32
_KEPT_CHARACTERS = 200
_CONTENT = re.compile(r"/(?P<repository>.+)/(?P<kind>manifests|blobs)/(?P<reference>[^/]+)")
_Seen = dict[str, tuple[str, float]]


class Clients:
    """The last manifest and the last blob of each of the last clients, as many as are kept."""

    def __init__(self, clock: Callable[[], float] = trio.current_time) -> None:
        self._clock = clock
        self._seen: OrderedDict[str, _Seen] = OrderedDict()

    async def watch(self, handler: Handler, request: Request, response: Response) -> None:
        """Let `handler` answer, and note what it answered well."""
        await handler(request, response)
        content = _CONTENT.fullmatch(request.path.replace("/v2/", "/", 1))
        if content is None or response.status not in (200, 206) or response.abandoned:
            return
        kind = content["kind"]
        if request.method == "GET" or (request.method == "HEAD" and kind == "manifests"):
            self._note(request, kind, content["repository"], content["reference"])

    def report(self) -> list[Client]:
        """All clients, the latest last."""
        now = self._clock()

        def served(seen: _Seen, kind: str) -> Served | None:
            found = seen.get(kind)
            return Served(name=found[0], seconds_ago=now - found[1]) if found else None

        return [
            Client(
                user_agent=user_agent,
                runtime=runtime_of(user_agent),
                manifest=served(seen, "manifests"),
                blob=served(seen, "blobs"),
            )
            for user_agent, seen in self._seen.items()
        ]

    def _note(self, request: Request, kind: str, repository: str, reference: str) -> None:
        user_agent = (request.headers.get("user-agent") or "")[:_KEPT_CHARACTERS]
        registry = "".join(f"{name}/" for name in request.query.get("ns", []))
        separator = "@" if ":" in reference else ":"
        name = f"{registry}{repository}{separator}{reference}"[: 2 * _KEPT_CHARACTERS]
        self._seen.setdefault(user_agent, {})[kind] = (name, self._clock())
        self._seen.move_to_end(user_agent)
        if len(self._seen) > _KEPT_CLIENTS:
            self._seen.popitem(last=False)
