"""The answer to a request for a blob: whole, a part of it, or several parts; sent while the blob still arrives.

The length is always declared, so that a daemon tells an answer that was cut short from a whole one. The header leaves
when the first bytes can follow it, because before it there still is a way out (shim.py); but daemons give up on a
registry that says nothing for long, so after HEADER_SECONDS it leaves anyway. Bytes go by sendfile as soon as the view
shows them: a client that takes them slowly, or not at all, waits in a task of its own and holds nobody up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import trio

from p2pdist.agent.content import BlobView, Content
from p2pdist.agent.fields import etag, identity
from p2pdist.agent.routes import BlobRoute
from p2pdist.core.digest import Digest
from p2pdist.http.headers import Headers
from p2pdist.http.multipart import Multipart
from p2pdist.http.ranges import ByteRange, Ranges, parse_ranges
from p2pdist.http.server import Response
from p2pdist.oci.bearer import BearerToken
from p2pdist.telemetry.metrics import AgentMetrics, ByteSink

HEADER_SECONDS = 12.0
"""How long a blob's first bytes are waited for before the header leaves without them; daemons wait 15 s for one."""
_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class _Shape:
    """What is sent of a blob: `parts`, framed by `multipart` when they are several."""

    parts: Sequence[ByteRange]
    multipart: Multipart | None
    status: int
    headers: Mapping[str, str]


class BlobAnswers:
    """Answers GET and HEAD of blobs from `content`."""

    def __init__(self, content: Content, metrics: AgentMetrics) -> None:
        self._content = content
        self._metrics = metrics
        self._sent_bytes = metrics.sent_bytes.labels(ByteSink.SHIM)

    async def head(self, route: BlobRoute, fields: Headers, response: Response) -> None:
        """Say how long the blob is; raises what `Content.blob_size` raises."""
        token = BearerToken.from_header(fields.get("authorization"))
        size_bytes = await self._content.blob_size(route.upstream, route.repository, route.digest, token)
        await response.send(200, {**_blob_headers(route.digest), "Content-Length": str(size_bytes)})

    async def get(self, route: BlobRoute, fields: Headers, response: Response) -> None:
        """Send what the header `fields` of the request ask for.

        Raises `RangeNotSatisfiable`, `ClientGone`, and what `Content.blob` and its view raise.
        """
        asked_at = trio.current_time()
        ranges = _wanted(fields, route.digest)
        token = BearerToken.from_header(fields.get("authorization"))
        async with self._content.blob(route.upstream, route.repository, route.digest, ranges, token) as view:
            shape = _shape(ranges, route.digest, view.size_bytes)
            whole = shape.status == 200
            self._content.asked(route.upstream, route.repository, route.digest, whole=whole, token=token)
            if shape.parts:
                with trio.move_on_after(HEADER_SECONDS):
                    await view.available(shape.parts[0].start)
            await response.start(shape.status, shape.headers)
            self._metrics.first_byte_seconds.observe(trio.current_time() - asked_at)
            await self._send(view, shape, response)

    async def _send(self, view: BlobView, shape: _Shape, response: Response) -> None:
        for index, part in enumerate(shape.parts):
            if shape.multipart is not None:
                await response.write(shape.multipart.head(index))
            await self._send_part(view, part, response)
        if shape.multipart is not None:
            await response.write(shape.multipart.tail)

    async def _send_part(self, view: BlobView, part: ByteRange, response: Response) -> None:
        """Send a part, each run of it as soon as it can be read."""
        start = part.start
        while start < part.end:
            run_end = min(part.end, await view.available(start))
            await response.send_file(view.fd, start, run_end - start)
            self._sent_bytes.inc(run_end - start)
            start = run_end


def _wanted(fields: Headers, digest: Digest) -> Ranges | None:
    """The ranges that a GET asks for; with If-Range only if the client means this very blob (RFC 9110, 13.1.5)."""
    condition = fields.get("if-range")
    if condition is not None and condition != etag(digest):
        return None
    return parse_ranges(fields.get("range"))


def _shape(ranges: Ranges | None, digest: Digest, size_bytes: int) -> _Shape:
    """What is sent of a blob of `size_bytes`, and what stands in front of it."""
    headers = _blob_headers(digest)
    parts = None if ranges is None else ranges.resolve(size_bytes)
    if parts is None:
        whole = [ByteRange(0, size_bytes)] if size_bytes else []
        return _Shape(whole, None, 200, {**headers, "Content-Length": str(size_bytes)})
    if len(parts) == 1:
        (part,) = parts
        said = {"Content-Length": str(part.length), "Content-Range": part.content_range(size_bytes)}
        return _Shape(parts, None, 206, {**headers, **said})
    framing = Multipart(parts, size_bytes, _TYPE)
    said = {"Content-Length": str(framing.length), "Content-Type": framing.content_type}
    return _Shape(parts, framing, 206, {**headers, **said})


def _blob_headers(digest: Digest) -> dict[str, str]:
    return {"Content-Type": _TYPE, "Accept-Ranges": "bytes", **identity(digest)}
