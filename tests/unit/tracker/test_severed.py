from p2pdist.tracker.severed import SEVERED_SECONDS, TIMES, Severed


def lacking(times: int, generation: int = 7, agent: str = "a", dealer: str = "d") -> Severed:
    severed = Severed()
    for _ in range(times):
        severed.lacks(generation, agent, dealer, 10.0)
    return severed


def test_once_may_be_a_queue() -> None:
    assert not lacking(TIMES - 1).between("a", "d", 10.0)


def test_twice_in_a_generation_is_a_broken_way_for_these_two_and_for_a_while() -> None:
    severed = lacking(TIMES)
    assert severed.between("a", "d", 10.0)
    assert severed.between("a", "d", 9.9 + SEVERED_SECONDS)
    assert not severed.between("a", "d", 10.0 + SEVERED_SECONDS)
    assert not severed.between("d", "a", 10.0)
    assert not severed.between("b", "d", 10.0)


def test_what_is_late_once_in_each_of_two_generations_is_not_counted_together() -> None:
    severed = lacking(TIMES - 1)
    severed.lacks(8, "a", "d", 10.0)
    assert not severed.between("a", "d", 10.0)
    severed.ended(7)
    severed.lacks(7, "a", "d", 10.0)
    assert not severed.between("a", "d", 10.0)


def test_who_comes_back_may_be_reached_otherwise() -> None:
    for node in ("a", "d"):
        severed = lacking(TIMES)
        severed.gone(node)
        assert not severed.between("a", "d", 10.0)
