"""The checks that the embedded registry passes, held against Debian's docker-registry: so they are the right checks."""

from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from tests.system import images
from tests.system.registries import Registry
from tests.unit.demo.registry_conformance import CHECKS, Subject


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory, require_program: Callable[[str], str]) -> Iterator[Subject]:
    require_program("docker-registry")
    image = images.image(images.layer(100_000, "conformance"))
    index = images.index(image)
    with Registry(tmp_path_factory.mktemp("docker-registry")) as registry:
        registry.push(index, "team/app", "1.0")
        url = urlsplit(registry.direct_url)
        assert url.hostname is not None
        assert url.port is not None
        yield Subject(
            url.hostname,
            url.port,
            "team/app",
            "1.0",
            index.manifest.media_type,
            index.manifest.data,
            image.manifest.media_type,
            image.manifest.data,
            image.layers[0].data,
        )


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_docker_registry_conforms(check: Callable[[Subject], None], subject: Subject) -> None:
    check(subject)
