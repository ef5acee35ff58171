import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.core.digest import Digest
from p2pdist.core.errors import DigestInvalid, InvalidInput
from p2pdist.oci.errors import NameInvalid
from p2pdist.oci.reference import Reference, Repository, Tag, normalize_registry, parse_target

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("app", "docker.io/library/app:latest"),
        ("team/app:1.2", "docker.io/team/app:1.2"),
        ("docker.io/app", "docker.io/library/app:latest"),
        ("index.docker.io/library/app:1", "docker.io/library/app:1"),
        ("GHCR.IO/team/app", "ghcr.io/team/app:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("127.0.0.1:5000/a/b/c:x", "127.0.0.1:5000/a/b/c:x"),
        ("[0:0::1]:5000/app:1", "[::1]:5000/app:1"),
        ("[fd00::1]/app", "[fd00::1]/app:latest"),
        (f"app@{DIGEST}", f"docker.io/library/app@{DIGEST}"),
        (f"docker.io/library/app:1.2@{DIGEST}", f"docker.io/library/app:1.2@{DIGEST}"),
        ("t/a--b__c.d_e/f:V_1.-", "docker.io/t/a--b__c.d_e/f:V_1.-"),
    ],
)
def test_reads_what_people_write_and_says_it_canonically(text: str, canonical: str) -> None:
    reference = Reference.parse(text)
    assert str(reference) == canonical
    assert Reference.parse(canonical) == reference


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":1",
        "/app",
        "app:",
        "app:-x",
        "App",
        "Foo/app",
        "a//b",
        "a/",
        "app:" + "t" * 129,
        "a" * 256,
        "ghcr.io/",
        "ghcr.io:0/app",
        "ghcr.io:65536/app",
        "ghcr.io:99999999/app",
        "[::1/app",
        "[:::1]/app",
        "[::1]x/app",
        "-bad.io/app",
        "app\n",
        "app:1\n",
        "a___b",
        "a..b",
        "ä.de/app",
        "http://ghcr.io/app",
        "x" * 5000,
    ],
)
def test_refuses_what_isnt_a_reference(text: str) -> None:
    with pytest.raises(NameInvalid) as caught:
        Reference.parse(text)
    assert caught.value.http_status == 400
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:abc", "md5:" + "ab" * 16, DIGEST.upper(), DIGEST + "@x"])
def test_refuses_a_digest_that_isnt_one(digest: str) -> None:
    with pytest.raises(DigestInvalid):
        Reference.parse(f"app@{digest}")


def test_a_digest_goes_before_a_tag() -> None:
    assert Reference.parse(f"app:1@{DIGEST}").target == Digest.parse(DIGEST)
    assert Reference.parse("app:1").target == Tag("1")


def test_a_reference_needs_tag_or_digest() -> None:
    with pytest.raises(NameInvalid, match="neither"):
        Reference(Repository("docker.io", "library/app"))


def test_the_part_behind_manifests_in_a_url() -> None:
    assert parse_target("1.2") == Tag("1.2")
    assert parse_target(DIGEST) == Digest.parse(DIGEST)
    with pytest.raises(DigestInvalid):
        parse_target("sha256:00")
    with pytest.raises(NameInvalid):
        parse_target("../x")


def test_registries_are_compared_by_their_canonical_form() -> None:
    assert Repository("Example.COM:0443", "app") == Repository("example.com:443", "app")
    assert normalize_registry("[FD00:0:0::1]:80") == "[fd00::1]:80"


@given(st.text(max_size=80))
def test_any_text_is_read_stably_or_refused(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidInput:
        return
    assert Reference.parse(str(reference)) == reference


_component = st.from_regex(r"[a-z0-9]{1,6}((\.|_|__|-{1,3})[a-z0-9]{1,6}){0,2}", fullmatch=True)
_host = st.one_of(
    st.from_regex(r"[a-z][a-z0-9]{0,6}\.[a-z]{2,5}(:[1-9][0-9]{0,3})?", fullmatch=True),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]:5000"),
    st.just("localhost"),
)


@given(
    _host,
    st.lists(_component, min_size=1, max_size=4),
    st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True),
    st.none() | st.binary(max_size=8).map(Digest.of),
)
def test_every_part_is_found_again(host: str, parts: list[str], tag: str | None, digest: Digest | None) -> None:
    text = f"{host}/{'/'.join(parts)}" + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
    reference = Reference.parse(text)
    assert reference.repository == Repository(host, "/".join(parts))
    assert reference.tag == (Tag(tag) if tag else None if digest else Tag("latest"))
    assert reference.digest == digest
