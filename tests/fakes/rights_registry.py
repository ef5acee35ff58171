"""A registry on loopback whose repositories are public or belong to the holders of certain tokens."""

from urllib.parse import quote

from tests.fakes.origin_server import OriginServer, Reply, Seen, oci_error

ANONYMOUS = "anonymous"


class RightsRegistry(OriginServer):
    """What is in `public` anybody reads, with the token that anybody gets; `rights` says what other tokens read.

    With `basic` the registry wants a password, as registries without tokens do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.public: set[str] = set()
        self.rights: dict[str, set[str]] = {}
        self.basic = False
        self.hides = False
        """Whether what a token may not read isn't there, as some registries say."""
        self.down = False
        self.guard = self._judge

    def authorizations(self, path: str) -> list[str]:
        """With what each request for `path` came."""
        return [seen.headers.get("authorization", "").removeprefix("Bearer ") for seen in self.seen(path)]

    def asked(self, path: str) -> list[tuple[str, str]]:
        """Method and token of each request for `path`."""
        return list(zip([seen.method for seen in self.seen(path)], self.authorizations(path), strict=True))

    def _judge(self, seen: Seen) -> Reply | None:
        if self.down:
            return oci_error(500, "UNKNOWN")
        if seen.path == "/token":
            return Reply(200, {"Content-Type": "application/json"}, b'{"token": "%s"}' % ANONYMOUS.encode())
        repository = seen.path.removeprefix("/v2/").partition("/manifests/")[0].partition("/blobs/")[0]
        token = seen.headers.get("authorization", "").removeprefix("Bearer ")
        readable = self.public if token == ANONYMOUS else self.rights.get(token, set())
        if repository in readable:
            return None
        if self.basic:
            return oci_error(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="registry"')
        if self.hides and token:
            return oci_error(404, "NAME_UNKNOWN")
        scope = quote(f"repository:{repository}:pull", safe="/:")
        challenge = f'Bearer realm="{self.url}/token",service="registry",scope="{scope}"'
        return oci_error(401, "UNAUTHORIZED", WWW_Authenticate=challenge)
