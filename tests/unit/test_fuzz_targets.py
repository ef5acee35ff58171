"""Whatever the bytes, parsers parse or refuse (tests/fuzz says what that means for each)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import SEEDS, TARGETS

PURE = sorted(set(TARGETS) - {"http"})
EACH = [(name, seed) for name, seeds in sorted(SEEDS.items()) for seed in seeds]


@st.composite
def spoilt(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """A good input, pieces of which are left out, repeated, swapped with others' or replaced by anything."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, len(data)))
        other = draw(st.sampled_from(seeds))
        filling = draw(st.one_of(st.binary(max_size=8), st.just(data[start:end] * 2), st.just(other[start:end])))
        data = data[:start] + filling + data[end:]
    return data


@pytest.mark.parametrize(("name", "seed"), EACH)
def test_good_input(name: str, seed: bytes) -> None:
    TARGETS[name](seed)


@pytest.mark.parametrize("name", PURE)
def test_any_bytes(name: str) -> None:
    @given(st.one_of(st.binary(max_size=200), spoilt(SEEDS[name])))
    def holds(data: bytes) -> None:
        TARGETS[name](data)

    holds()


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.binary(max_size=200), spoilt(SEEDS["http"])))
def test_any_bytes_on_a_connection(data: bytes) -> None:
    TARGETS["http"](data)
