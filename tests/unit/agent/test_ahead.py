from p2pdist.agent.ahead import AHEAD_BYTES, AHEAD_TINY, EACH_BYTES, TINY_BYTES, Ahead
from p2pdist.core.digest import Digest
from p2pdist.oci.descriptor import Descriptor
from p2pdist.oci.manifest import OCI_MANIFEST, Manifest

KIB, MIB = 1024, 1024 * 1024
UPSTREAM, REPOSITORY = "registry.example", "library/app"
WHERE = (UPSTREAM, REPOSITORY)


def layer(number: int, size_bytes: int = 100 * KIB) -> Descriptor:
    return Descriptor("application/x", Digest.of(b"%d" % number), size_bytes)


def image(*layers: Descriptor) -> Manifest:
    return Manifest(OCI_MANIFEST, layer(1000), layers)


def serve(ahead: Ahead, *layers: Descriptor, number: int = 0, repository: str = REPOSITORY) -> None:
    ahead.served(UPSTREAM, repository, Digest.of(b"manifest %d" % number), image(*layers))


def nothing(_digest: Digest) -> bool:
    return False


def test_the_layers_after_the_one_that_was_asked_for_are_begun_once() -> None:
    ahead, layers = Ahead(), [layer(number) for number in range(5)]
    serve(ahead, *layers)
    assert ahead.following(*WHERE, layers[2].digest, nothing) == layers[3:]
    assert ahead.following(*WHERE, layers[3].digest, nothing) == []
    assert ahead.following(*WHERE, layers[0].digest, nothing) == layers[1:3]


def test_what_is_here_is_left_out() -> None:
    ahead, layers = Ahead(), [layer(number) for number in range(4)]
    serve(ahead, *layers)
    assert ahead.following(*WHERE, layers[0].digest, lambda digest: digest == layers[1].digest) == layers[2:]


def test_neither_a_config_nor_an_unknown_blob_begins_anything() -> None:
    ahead = Ahead()
    assert ahead.following(*WHERE, layer(0).digest, nothing) == []
    serve(ahead, layer(0), layer(1))
    assert ahead.following(*WHERE, layer(1000).digest, nothing) == []
    assert ahead.following(UPSTREAM, "other/app", layer(0).digest, nothing) == []


def test_a_large_layer_ends_the_row() -> None:
    ahead, layers = Ahead(), [layer(0), layer(1), layer(2, EACH_BYTES + 1), layer(3)]
    serve(ahead, *layers)
    assert ahead.following(*WHERE, layers[0].digest, nothing) == [layers[1]]


def test_so_many_bytes_are_ahead_and_no_more_until_they_are_asked_for() -> None:
    ahead, layers = Ahead(), [layer(number, MIB) for number in range(30)]
    serve(ahead, *layers)
    ahead_of_first = AHEAD_BYTES // MIB
    assert ahead.following(*WHERE, layers[0].digest, nothing) == layers[1 : 1 + ahead_of_first]
    assert ahead.following(*WHERE, layers[0].digest, nothing) == []
    assert ahead.take(layers[1].digest) == MIB
    assert ahead.take(layers[1].digest) == 0
    assert ahead.take(layers[20].digest) == 0
    assert ahead.following(*WHERE, layers[1].digest, nothing) == [layers[1 + ahead_of_first]]


def test_of_tiny_layers_only_a_few_are_ahead() -> None:
    ahead, layers = Ahead(), [layer(number, TINY_BYTES - 1) for number in range(30)]
    serve(ahead, *layers)
    assert ahead.following(*WHERE, layers[0].digest, nothing) == layers[1 : 1 + AHEAD_TINY]
    assert ahead.following(*WHERE, layers[0].digest, nothing) == []
    assert ahead.take(layers[2].digest) == TINY_BYTES - 1
    assert ahead.following(*WHERE, layers[2].digest, nothing) == [layers[1 + AHEAD_TINY]]


def test_of_several_images_the_one_served_last_counts() -> None:
    ahead = Ahead()
    shared = layer(0)
    serve(ahead, shared, layer(1), number=1)
    serve(ahead, shared, layer(2), number=2)
    serve(ahead, shared, layer(1), number=1)
    assert ahead.following(*WHERE, shared.digest, nothing) == [layer(1)]


def test_images_that_were_served_long_ago_are_forgotten() -> None:
    ahead = Ahead()
    serve(ahead, layer(0), layer(1), number=0)
    for number in range(1, 300):
        serve(ahead, layer(10 * number), number=number)
    assert ahead.following(*WHERE, layer(0).digest, nothing) == []


def test_a_layer_that_a_manifest_lists_twice_counts_once() -> None:
    ahead = Ahead()
    serve(ahead, layer(0), layer(1), layer(0), layer(1))
    assert ahead.following(*WHERE, layer(0).digest, nothing) == [layer(1)]


def test_what_has_urls_of_its_own_is_left_to_who_asks_for_it() -> None:
    foreign = Descriptor("application/x", Digest.of(b"foreign"), 100, urls=("https://example.test/layer",))
    ahead, first, last = Ahead(), layer(1), layer(2)
    serve(ahead, first, foreign, last)
    assert ahead.following(*WHERE, first.digest, nothing) == [last]
