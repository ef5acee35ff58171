import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.http.headers import Headers, accepts

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def test_names_have_no_case_and_lines_are_merged_in_order() -> None:
    headers = Headers([("Accept", "a/b"), ("HOST", "x"), ("accept", "c/d"), ("ACCEPT", "e/f")])
    assert headers["aCCept"] == "a/b, c/d, e/f"
    assert headers.get("host") == "x"
    assert headers.get("range") is None
    assert "Accept" in headers
    assert sorted(headers) == ["accept", "host"]
    assert len(headers) == 2


def test_values_stay_out_of_logs() -> None:
    assert "secret" not in repr(Headers([("Authorization", "Basic secret")]))


@pytest.mark.parametrize("accept", [None, "", "  ", "*/*", "application/*", MANIFEST, MANIFEST.upper()])
def test_accepted(accept: str | None) -> None:
    assert accepts(accept, MANIFEST)


@pytest.mark.parametrize(
    "accept",
    ["text/*", "application/json", f"{MANIFEST};q=0", f"*/*, {MANIFEST};q=0", f"{MANIFEST};q=nonsense", ",;,"],
)
def test_refused(accept: str) -> None:
    assert not accepts(accept, MANIFEST)


def test_parameters_and_lists() -> None:
    assert accepts(f"text/html, {MANIFEST};q=0.5 , application/*;q=0", MANIFEST)
    assert accepts("application/json", "application/json; charset=utf-8")
    assert accepts(f"{MANIFEST};q=0, {MANIFEST}", MANIFEST)


@given(st.text(), st.text())
def test_any_text_has_an_answer(accept: str, media_type: str) -> None:
    assert accepts(accept, media_type) in (True, False)
