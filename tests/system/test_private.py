"""Private repositories: the tracker holds the credentials, nobody else sees them, and the bytes don't travel openly."""

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

from tests.system.clients import skopeo_copy
from tests.system.daemons import merged
from tests.system.fetches import get, pull_at_once
from tests.system.fleet import UPSTREAM, Fleet, upstream
from tests.system.images import Image, image, layer
from tests.system.registries import ACCOUNT, Registry

REPOSITORY = "private/app"
KINDS = ("htpasswd", "token", "htpasswd over TLS")


class PrivateOrigin(NamedTuple):
    registry: Registry
    fleet: Fleet
    image: Image


def tls_context(directory: Path) -> tuple[ssl.SSLContext, Path]:
    """What the origin serves TLS with, and the CA file that makes it trusted."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    ca_file = directory / "origin-ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    return context, ca_file


@pytest.fixture(scope="module", params=KINDS)
def private(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, require_program: Callable[[str], str]
) -> Iterator[PrivateOrigin]:
    require_program("docker-registry")
    directory = tmp_path_factory.mktemp("private")
    context, ca_file = tls_context(directory) if "TLS" in request.param else (None, None)
    with Registry(directory / "registry", auth=request.param.split()[0], tls=context) as registry:
        made = image(layer(4_000_000, request.param), layer(1_000_000, f"{request.param} zstd", "zstd"))
        registry.push(made, REPOSITORY, "1")
        origin = upstream(
            registry, credentials_file=str(registry.write_docker_config(directory / "docker-config.json"))
        )
        trusted = merged(origin, {"ca_file": str(ca_file)} if ca_file else {})
        with Fleet(directory / "fleet", [trusted], agents=3) as fleet:
            yield PrivateOrigin(registry, fleet, made)


def test_private_images_are_relayed_once_and_never_swarmed(private: PrivateOrigin) -> None:
    registry, fleet, made = private
    pull_at_once(fleet.agents, REPOSITORY, "1", made)
    assert registry.meter.total_blob_bytes() == made.blob_bytes
    late = fleet.add_agent()
    pull_at_once([late], REPOSITORY, "1", made)
    assert registry.meter.total_blob_bytes() == made.blob_bytes
    received = [agent.received() for agent in fleet.agents]
    assert [one.total for one in received] == [made.blob_bytes] * 4
    assert [one.swarm for one in received] == [0] * 4
    assert [one.origin for one in received] == [0] * 4
    assert received[3].relay + received[3].dealt == made.blob_bytes


def test_skopeo_pulls_a_private_image_without_credentials_of_its_own(
    private: PrivateOrigin, tmp_path: Path, require_program: Callable[[str], str]
) -> None:
    require_program("skopeo")
    source = f"{private.fleet.agents[0].shim_address}/{UPSTREAM}/{REPOSITORY}:1"
    skopeo_copy(source, tmp_path / "copy").assert_is(private.image)


def test_the_origin_was_asked_with_the_trackers_credentials(private: PrivateOrigin) -> None:
    pull_at_once(private.fleet.agents[:1], REPOSITORY, "1", private.image)
    served = [one for one in private.registry.meter.answered() if one.status in (200, 206) and REPOSITORY in one.path]
    assert served
    schemes = {one.authorization.split(" ")[0] for one in served}
    granted = [request for request in private.registry.tokens.requests if request.granted]
    if granted:
        assert schemes == {"Bearer"}
        assert {request.account for request in granted} == {ACCOUNT.user}
        assert all(scope == f"repository:{REPOSITORY}:pull" for request in granted for scope in request.scopes)
    else:
        assert {one.authorization for one in served} == {ACCOUNT.authorization}


def test_credentials_are_in_no_log(private: PrivateOrigin) -> None:
    pull_at_once(private.fleet.agents[:1], REPOSITORY, "1", private.image)
    for daemon in private.fleet.daemons():
        text = daemon.log_text()
        assert text, f"{daemon.name} logged nothing"
        assert ACCOUNT.password not in text
        assert ACCOUNT.authorization.split(" ")[1] not in text


def test_a_repository_that_the_account_cannot_see_is_a_clear_404(private: PrivateOrigin) -> None:
    status, _, body = get(private.fleet.agents[0], f"/v2/private/absent/manifests/1?ns={UPSTREAM}")
    assert status == 404
    assert b'"MANIFEST_UNKNOWN"' in body or b'"NAME_UNKNOWN"' in body
