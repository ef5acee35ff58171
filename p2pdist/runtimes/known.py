"""The runtimes that there are, and which of them a request to the shim comes from."""

import re
import shutil
from types import MappingProxyType

from p2pdist.runtimes import containerd, docker, registries_conf
from p2pdist.runtimes.plan import Runtime

RUNTIMES = MappingProxyType(
    {each.name: each for each in (containerd.RUNTIME, docker.RUNTIME, registries_conf.PODMAN, registries_conf.CRIO)}
)

_PRODUCTS = MappingProxyType(
    {
        "containerd": "containerd",
        "docker": "docker",
        "containers": "podman",
        "libpod": "podman",
        "podman": "podman",
        "buildah": "podman",
        "skopeo": "podman",
        "cri-o": "crio",
    }
)
"""The first product of a User-Agent (RFC 9110, 10.1.5), as these clients send it: `containerd/1.6.20~ds1`,
`docker/20.10.24 go/go1.19 …`, `containers/5.23.1 (github.com/containers/image)`, `Buildah/1.28.2`, `skopeo/1.9.3`,
`cri-o/1.24.0 go/go1.18 …`."""


def runtime_of(user_agent: str) -> str:
    """The name of the runtime that sends `user_agent`; empty for other clients."""
    product = re.match(r"[^/\s]+", user_agent)
    return _PRODUCTS.get(product[0].lower(), "") if product else ""


def is_here(runtime: Runtime) -> bool:
    """Whether a program of `runtime` is on this host."""
    return any(shutil.which(program) for program in runtime.programs)
