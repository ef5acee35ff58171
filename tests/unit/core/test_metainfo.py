import hashlib
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.core.digest import Digest
from p2pdist.core.errors import InvalidInput
from p2pdist.core.metainfo import Bencodable, Metainfo, bencode, file_name
from p2pdist.core.pieces import PieceLayout, piece_hash, pieces_root


class Vector(NamedTuple):
    """What libtorrent 2.1.1 computes for the bytes 0, 1, ... 250, 0, 1, ... (`create_torrent`, v2 only)."""

    size_bytes: int
    piece_bytes: int
    root: str
    """`pieces root` of the file."""
    last: str
    """The hash of the last piece."""
    info_hash: str


VECTORS = [
    Vector(
        1,
        32_768,
        root="6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        last="6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        info_hash="f8b5cd4afed510366cdb2871b712694b5cd4f4bcf7515af36d4fb0584c42370c",
    ),
    Vector(
        16_384,
        32_768,
        root="4348e3b98e8a327b34ced39c1da9e67cdb4cd5e48e4d7960607a3ae403d35f0c",
        last="4348e3b98e8a327b34ced39c1da9e67cdb4cd5e48e4d7960607a3ae403d35f0c",
        info_hash="20d3829d1532f84e1b5302d64f8343898ec43edbcb8f4eea17cf5ad4f7005b37",
    ),
    Vector(
        16_385,
        32_768,
        root="9d7887c65d577a0237fb3c0998b87b3a62762d03796889a2caea01db914ccbb8",
        last="9d7887c65d577a0237fb3c0998b87b3a62762d03796889a2caea01db914ccbb8",
        info_hash="13acfd7f9d5969081e9f40b98131670faac2a43db71c6dcb7c032d702aca6078",
    ),
    Vector(
        32_768,
        32_768,
        root="d9e13d0b676ad681164ef0b7b5910d1328ea83a047cad57e619d76bbe3a08525",
        last="d9e13d0b676ad681164ef0b7b5910d1328ea83a047cad57e619d76bbe3a08525",
        info_hash="54b6c8157ab55d7a6d3224f19debcc5e13b95d406c0f05ee5153204166c3fccc",
    ),
    Vector(
        32_769,
        32_768,
        root="934c793a4cecccfd47faaf6b69c17703875e6c58ffe623bcd31ff3b2170770d1",
        last="638b34336e01a45ec7e0bb471943ea880accff4be985e396f05e4e861d60536f",
        info_hash="791a8d880eb4c7dd1f067f135dba20e72b618530c895c0271ece604604236ac6",
    ),
    Vector(
        100_000,
        16_384,
        root="505fc9a922f60ae071450b07256a4ba760612bffc38c27584ed03fd96c69841b",
        last="411477fb697d41b362bc4deaf4773ed3aad5c9048760bcdc0994ce9e20dc1647",
        info_hash="5c34363bac77b559be5bbbbbca6f2ca342bc3a6095a50763ea3b931414685d6f",
    ),
    Vector(
        100_000,
        32_768,
        root="505fc9a922f60ae071450b07256a4ba760612bffc38c27584ed03fd96c69841b",
        last="ef72b5ef0b29bacc8de6bc437f8a488da617d064457122b7db2c4092374151f9",
        info_hash="eea22d506e9cf7376dc885d748ea6996c16b4dda939c29b59b96b64d770355f3",
    ),
    Vector(
        1_000_003,
        65_536,
        root="c9cc20bff063dd0833c0fec39507006d1f470d0ed5ac784ce7b330ca65f73ef0",
        last="470917908e86b9b6ccbc0907483383230b2f663c905eb3e47ee8c6c30d4107ad",
        info_hash="b460f6cfac1044126d1c5ba95b8b0b495c9c350365148d1cafaa9ff752536223",
    ),
    Vector(
        1_000_003,
        1_048_576,
        root="c9cc20bff063dd0833c0fec39507006d1f470d0ed5ac784ce7b330ca65f73ef0",
        last="c9cc20bff063dd0833c0fec39507006d1f470d0ed5ac784ce7b330ca65f73ef0",
        info_hash="ec5a203601739f980d5c5403d3090e5c6d0f1dbb2625856f7c09eca40ce7efac",
    ),
    Vector(
        163_840,
        32_768,
        root="92ffcec5095fcb78750791a50e88be81c7ccf2a217902ab15da5a9dfe863e112",
        last="1ae3b7566249a18c2007db5a96e0583f47ec0a874aafb95a5fc2aa34be134174",
        info_hash="03fb8739f2e5acd8686822af59a1b8efbbf12ee87deae7b9092019ead0d0177a",
    ),
]


def content(size_bytes: int) -> bytes:
    """The bytes that the vectors are of."""
    return (bytes(range(251)) * (size_bytes // 251 + 1))[:size_bytes]


def metainfo(data: bytes, layout: PieceLayout) -> Metainfo:
    """The metainfo of `data`."""
    pieces = [data[layout.offset(index) :][: layout.length(index)] for index in range(layout.count)]
    return Metainfo(Digest.of(data), layout, tuple(piece_hash(layout, piece) for piece in pieces))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector.size_bytes}-{vector.piece_bytes}")
def test_libtorrents_vectors(vector: Vector) -> None:
    layout = PieceLayout(vector.size_bytes, vector.piece_bytes)
    ours = metainfo(content(vector.size_bytes), layout)
    assert ours.hashes[-1].hex() == vector.last
    assert pieces_root(layout, list(ours.hashes)).hex() == vector.root
    assert ours.info_hash.hex() == vector.info_hash


def test_a_torrent_written_out() -> None:
    ours = metainfo(b"abc", PieceLayout(3, 32768))
    name = b"sha256-ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    root = hashlib.sha256(b"abc").digest()
    info = (
        b"d9:file treed71:%bd0:d6:lengthi3e11:pieces root32:%beee12:meta versioni2e4:name71:%b12:piece lengthi32768ee"
        % (name, root, name)
    )
    assert ours.info == info
    assert ours.torrent() == b"d4:info%b12:piece layersdee" % info


def test_the_layers_of_several_pieces_are_listed() -> None:
    layout = PieceLayout(100_000, 32768)
    ours = metainfo(content(100_000), layout)
    layers = b"d32:%b128:%be" % (pieces_root(layout, list(ours.hashes)), b"".join(ours.hashes))
    assert ours.torrent() == b"d4:info%b12:piece layers%be" % (ours.info, layers)


def test_an_empty_blob_has_no_hashes() -> None:
    ours = metainfo(b"", PieceLayout(0, 32768))
    assert ours.hashes == ()
    assert b"pieces root" not in ours.info


@pytest.mark.parametrize("hashes", [(), (bytes(32),) * 3, (bytes(32),) * 5, (bytes(32),) * 3 + (bytes(31),)])
def test_every_piece_needs_a_hash(hashes: tuple[bytes, ...]) -> None:
    with pytest.raises(InvalidInput, match="piece hashes for sha256:"):
        Metainfo(Digest.of(b""), PieceLayout(100_000, 32768), hashes)


def test_another_blob_has_another_info_hash() -> None:
    layout = PieceLayout(100_000, 32768)
    data = content(100_000)
    assert metainfo(data, layout).info_hash != metainfo(data[:-1] + b"\0", layout).info_hash
    assert metainfo(data, layout).info_hash != metainfo(data, PieceLayout(100_000, 16384)).info_hash


def test_file_names_are_digests() -> None:
    digest = Digest.of(b"abc")
    assert file_name(digest) == f"sha256-{digest.hex}"


def decode(text: bytes) -> tuple[Bencodable, bytes]:
    """The first value of `text` in bencoding, and the rest."""
    match text[:1]:
        case b"i":
            digits, _, rest = text[1:].partition(b"e")
            return int(digits), rest
        case b"l" | b"d":
            items: list[Bencodable] = []
            rest = text[1:]
            while not rest.startswith(b"e"):
                item, rest = decode(rest)
                items.append(item)
            if text.startswith(b"l"):
                return items, rest[1:]
            keys = items[::2]
            assert keys == sorted(keys, key=lambda key: key if isinstance(key, bytes) else b"")
            return {key: value for key, value in zip(keys, items[1::2], strict=True) if isinstance(key, bytes)}, rest[
                1:
            ]
        case _:
            length, _, rest = text.partition(b":")
            return rest[: int(length)], rest[int(length) :]


values: st.SearchStrategy[Bencodable] = st.recursive(
    st.integers() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.binary(), inner),
    max_leaves=20,
)


@given(values)
def test_bencoding_reads_back(value: Bencodable) -> None:
    assert decode(bencode(value)) == (value, b"")
