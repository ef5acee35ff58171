"""Who may have what: the rule, how long it counts, and that guessing a digest helps nobody."""

import base64
import json

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from p2pdist.core.digest import Digest
from p2pdist.oci import rights as rights_module
from p2pdist.oci.bearer import BearerToken
from p2pdist.oci.challenge import Challenge
from p2pdist.oci.rights import STALE_SECONDS, Access, Asker, Closed, Place, Rights

TEAM, OTHER = Place("reg.test", "team/app"), Place("reg.test", "other/app")
FLEET, ANYBODY = Place("fleet.test", "app"), Place("anonymous.test", "app")
MODES = {"reg.test": Access.CLIENT, "fleet.test": Access.FLEET, "anonymous.test": Access.ANONYMOUS}
MINE, THEIRS = BearerToken("mine"), BearerToken("theirs")
DIGEST = Digest.of(b"a layer")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rights(clock: Clock) -> Rights:
    return Rights(MODES.__getitem__, clock, clock)


def test_nothing_is_allowed_that_nobody_said(rights: Rights) -> None:
    for asker in (Asker(TEAM), Asker(TEAM, MINE), Asker(ANYBODY), Asker(ANYBODY, MINE)):
        assert not rights.may_read(asker)
        assert not rights.may_have(asker, DIGEST, asker.place)
        assert rights.good_seconds(asker) == 0


def test_what_is_open_is_everybodys_for_a_while(rights: Rights, clock: Clock) -> None:
    rights.opened(TEAM, 60)
    clock.now += 59
    assert rights.may_read(Asker(TEAM))
    assert rights.may_have(Asker(OTHER, THEIRS), DIGEST, TEAM)
    assert rights.good_seconds(Asker(TEAM)) == 1
    clock.now += 1
    assert not rights.may_read(Asker(TEAM))
    assert not rights.may_have(Asker(TEAM), DIGEST, TEAM)
    assert rights.may_have(Asker(TEAM), DIGEST, TEAM, stale=True)
    clock.now += STALE_SECONDS
    assert not rights.may_read(Asker(TEAM), stale=True)


def test_what_is_shut_is_open_to_nobody_not_even_for_want_of_an_answer(rights: Rights, clock: Clock) -> None:
    rights.opened(TEAM, 60)
    refused = Closed(Challenge("bearer", {"realm": "https://auth.test"}))
    rights.shut(TEAM, refused, 10)
    assert not rights.may_read(Asker(TEAM), stale=True)
    assert rights.closed(TEAM) == refused
    clock.now += 10
    assert rights.closed(TEAM) is None
    assert not rights.may_read(Asker(TEAM), stale=True)
    rights.shut(TEAM, refused, 10)
    rights.opened(TEAM, 60)
    assert rights.closed(TEAM) is None


def test_a_grant_is_one_tokens_for_one_place(rights: Rights, clock: Clock) -> None:
    rights.granted(TEAM, MINE, 60)
    assert rights.may_have(Asker(TEAM, MINE), DIGEST, TEAM)
    assert not rights.may_have(Asker(TEAM, THEIRS), DIGEST, TEAM)
    assert not rights.may_have(Asker(TEAM), DIGEST, TEAM)
    assert not rights.may_read(Asker(OTHER, MINE))
    rights.revoked(TEAM, THEIRS)
    assert rights.good_seconds(Asker(TEAM, MINE)) == 60
    clock.now += 60
    assert not rights.may_read(Asker(TEAM, MINE), stale=True)


def test_a_refused_token_loses_its_grant_at_once(rights: Rights) -> None:
    rights.granted(TEAM, MINE, 60)
    rights.revoked(TEAM, MINE)
    assert not rights.may_read(Asker(TEAM, MINE))


@pytest.mark.parametrize(("exp", "seconds"), [(1020, 20), (5000, 60), (900, 0)])
def test_a_grant_ends_with_its_token(rights: Rights, exp: float, seconds: float) -> None:
    claims = base64.urlsafe_b64encode(json.dumps({"exp": exp}).encode()).decode()
    token = BearerToken(f"a.{claims}.b")
    rights.granted(TEAM, token, 60)
    assert rights.good_seconds(Asker(TEAM, token)) == seconds


def test_a_blob_of_another_place_is_given_only_where_the_upstream_has_it_too(rights: Rights) -> None:
    """Whoever may read `other` can push a manifest there that lists what is in `team`."""
    rights.granted(TEAM, MINE, 60)
    rights.opened(OTHER, 60)
    for asker in (Asker(OTHER), Asker(OTHER, THEIRS), Asker(OTHER, MINE)):
        assert rights.may_read(asker)
        assert not rights.may_have(asker, DIGEST, TEAM)
    rights.found(OTHER, DIGEST, 7)
    assert rights.may_have(Asker(OTHER), DIGEST, TEAM)
    assert not rights.may_have(Asker(OTHER), Digest.of(b"another layer"), TEAM)
    assert not rights.may_have(Asker(TEAM), DIGEST, TEAM)


def test_another_upstream_must_have_given_the_bytes(rights: Rights) -> None:
    elsewhere = Asker(ANYBODY)
    rights.opened(ANYBODY, 60)
    rights.found(ANYBODY, DIGEST, 7)
    assert rights.size_in(ANYBODY, DIGEST) == 7
    assert not rights.may_have(elsewhere, DIGEST, TEAM)
    rights.found(ANYBODY, DIGEST, 7, proven=True)
    assert rights.may_have(elsewhere, DIGEST, TEAM)
    rights.found(ANYBODY, DIGEST, 7)
    assert rights.may_have(elsewhere, DIGEST, TEAM)


def test_the_fleets_own_credentials_open_their_upstream_and_no_other(rights: Rights) -> None:
    assert rights.may_have(Asker(FLEET), DIGEST, FLEET)
    assert rights.may_have(Asker(TEAM), DIGEST, FLEET)
    assert not rights.may_have(Asker(FLEET), DIGEST, TEAM)


def test_a_token_is_nothing_where_only_the_anonymous_are_served(rights: Rights) -> None:
    rights.granted(ANYBODY, MINE, 60)
    assert not rights.may_read(Asker(ANYBODY, MINE))


def test_it_forgets_what_is_oldest(rights: Rights, monkeypatch: pytest.MonkeyPatch) -> None:
    for bound in ("MAX_PLACES", "MAX_GRANTS", "MAX_FOUND"):
        monkeypatch.setattr(rights_module, bound, 2)
    places = [Place("reg.test", name) for name in "abc"]
    for place in places:
        rights.opened(place, 60)
    assert [rights.is_open(place) for place in places] == [False, True, True]
    for place in places:
        rights.shut(place, Closed(None), 60)
        rights.found(place, DIGEST, 7)
        rights.granted(place, MINE, 60)
    assert [rights.closed(place) is not None for place in places] == [False, True, True]
    assert [rights.may_read(Asker(place, MINE)) for place in places] == [False, True, True]
    assert [rights.may_have(Asker(place, MINE), DIGEST, TEAM) for place in places] == [False, True, True]


def test_what_is_kept_of_a_token_is_not_the_token(rights: Rights, clock: Clock) -> None:
    rights.granted(TEAM, BearerToken("very-secret"), 60)
    assert "secret" not in repr(vars(rights))
    assert rights.key(MINE) != Rights(MODES.__getitem__, clock, clock).key(MINE)
    assert rights.key(MINE) == rights.key(BearerToken("mine"))


places = st.sampled_from([TEAM, OTHER])
tokens = st.sampled_from([MINE, THEIRS])


class RightsMachine(RuleBasedStateMachine):
    """Against a registry that is asked about everything: what is allowed was allowed at most 60 s ago."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.rights = Rights(MODES.__getitem__, self.clock, self.clock)
        self.open_at: dict[Place, float] = {}
        self.granted_at: dict[tuple[Place, BearerToken], float] = {}
        self.there: set[Place] = set()

    @rule(place=places)
    def opens(self, place: Place) -> None:
        self.rights.opened(place, 60)
        self.open_at[place] = self.clock.now

    @rule(place=places)
    def shuts(self, place: Place) -> None:
        self.rights.shut(place, Closed(None), 60)
        self.open_at.pop(place, None)

    @rule(place=places, token=tokens)
    def grants(self, place: Place, token: BearerToken) -> None:
        self.rights.granted(place, token, 60)
        self.granted_at[place, token] = self.clock.now

    @rule(place=places, token=tokens)
    def revokes(self, place: Place, token: BearerToken) -> None:
        self.rights.revoked(place, token)
        self.granted_at.pop((place, token), None)

    @precondition(lambda self: len(self.there) < 2)
    @rule(place=places)
    def finds(self, place: Place) -> None:
        self.rights.found(place, DIGEST, 7)
        self.there.add(place)

    @rule(seconds=st.floats(0, 50))
    def waits(self, seconds: float) -> None:
        self.clock.now += seconds

    def lately(self, when: float | None) -> bool:
        return when is not None and self.clock.now < when + 60

    @invariant()
    def the_rule_holds(self) -> None:
        for home in (TEAM, OTHER):
            for place in (TEAM, OTHER):
                for token in (None, MINE, THEIRS):
                    granted = token is not None and self.lately(self.granted_at.get((place, token)))
                    reads = self.lately(self.open_at.get(place)) or granted
                    has = self.lately(self.open_at.get(home)) or (reads and (place == home or place in self.there))
                    assert self.rights.may_read(Asker(place, token)) == reads
                    assert self.rights.may_have(Asker(place, token), DIGEST, home) == has


TestRightsMachine = RightsMachine.TestCase
