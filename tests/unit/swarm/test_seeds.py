from hypothesis import given
from hypothesis import strategies as st

from p2pdist.core.digest import Digest
from p2pdist.swarm.seeds import IdleSeeds

DIGESTS = [Digest.of(bytes([number])) for number in range(6)]


def test_the_least_recently_used_goes() -> None:
    a, b, c, *_ = DIGESTS
    seeds = IdleSeeds(2)
    assert seeds.put(a) == []
    assert seeds.put(b) == []
    assert seeds.put(a) == []
    assert seeds.put(c) == [b]
    assert a in seeds
    assert b not in seeds


def test_none_stays_with_a_limit_of_zero() -> None:
    seeds = IdleSeeds(0)
    assert seeds.put(DIGESTS[0]) == [DIGESTS[0]]
    assert len(seeds) == 0


@given(st.integers(0, 4), st.lists(st.tuples(st.booleans(), st.sampled_from(DIGESTS))))
def test_the_last_used_stay(limit: int, steps: list[tuple[bool, Digest]]) -> None:
    seeds, model = IdleSeeds(limit), list[Digest]()
    for idle, digest in steps:
        model = [other for other in model if other != digest]
        if idle:
            model.append(digest)
            gone, model = model[: max(0, len(model) - limit)], model[max(0, len(model) - limit) :]
            assert seeds.put(digest) == gone
        else:
            seeds.discard(digest)
        assert [digest for digest in DIGESTS if digest in seeds] == [digest for digest in DIGESTS if digest in model]
        assert len(seeds) == len(model)
