"""Labels and the parts of the fleet that they name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.tracker.zones import Level, zone_of

LEVELS: tuple[Level, ...] = ("fleet", "region", "zone", "rack")
LABEL = "/".join(["eu", "eu-1", "r7"])


@pytest.mark.parametrize(
    ("level", "label", "zone"),
    [
        ("fleet", LABEL, ""),
        ("region", LABEL, "eu"),
        ("zone", LABEL, "eu/eu-1"),
        ("rack", LABEL, LABEL),
        ("rack", LABEL + "/slot 3", LABEL),
        ("region", "eu", "eu"),
        ("zone", "eu", "eu"),
        ("rack", "eu", "eu"),
        ("region", "", ""),
    ],
)
def test_a_label_counts_as_far_as_it_is_configured(level: Level, label: str, zone: str) -> None:
    assert zone_of(level, label) == zone


@given(st.lists(st.text("ab/", max_size=9), min_size=2, max_size=2))
def test_who_shares_a_narrow_zone_shares_every_wider_one(labels: list[str]) -> None:
    one, other = labels
    shared = [zone_of(level, one) == zone_of(level, other) for level in LEVELS]
    assert shared == sorted(shared, reverse=True)


def test_equal_names_in_different_regions_are_different_zones() -> None:
    assert zone_of("zone", "eu/a") != zone_of("zone", "us/a")
