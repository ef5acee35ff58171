import gzip
import hashlib
import io
import json
import platform
import subprocess
import tarfile
import zlib
from dataclasses import replace

import pytest

from p2pdist.core.digest import Digest
from p2pdist.core.errors import InvalidInput
from p2pdist.demo.executable import greeting
from p2pdist.demo.image import GeneratedImage, generate
from p2pdist.demo.layout import LAYER_GZIP, LAYER_TAR, Layout
from p2pdist.oci.descriptor import Descriptor
from p2pdist.oci.manifest import Index, Manifest, parse_manifest

SIZE = 2 << 20


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    return Layout(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def images(layout) -> list[GeneratedImage]:
    return generate(layout.directory, SIZE, versions=2, seed=7)


def read(layout: Layout, entry: Descriptor) -> bytes:
    body = layout.path(entry.digest).read_bytes()
    assert len(body) == entry.size_bytes
    assert Digest.of(body) == entry.digest
    return body


def tar_of(layout: Layout, entry: Descriptor) -> bytes:
    body = read(layout, entry)
    return gzip.decompress(body) if entry.media_type == LAYER_GZIP else body


def test_every_document_describes_what_is_there(layout, images):
    for image in images:
        index = parse_manifest(read(layout, image.index), image.index.media_type)
        assert isinstance(index, Index)
        assert [str(manifest.platform) for manifest in index.manifests] == ["linux/amd64", "linux/arm64"]
        for described, (architecture, built) in zip(index.manifests, image.platforms.items(), strict=True):
            assert replace(described, platform=None) == built.manifest
            manifest = parse_manifest(read(layout, built.manifest), built.manifest.media_type)
            assert isinstance(manifest, Manifest)
            assert (manifest.config, manifest.layers) == (built.config, built.layers)
            config = json.loads(read(layout, built.config))
            assert (config["architecture"], config["os"]) == (architecture, "linux")
            assert len(config["history"]) == len(built.layers)


def test_diff_ids_are_the_digests_of_the_unpacked_layers(layout, images):
    built = images[0].platforms["amd64"]
    config = json.loads(read(layout, built.config))
    assert config["rootfs"]["diff_ids"] == [str(Digest.of(tar_of(layout, layer))) for layer in built.layers]


def test_layers_unpack_to_sane_paths(layout, images):
    names = []
    for layer in images[1].platforms["arm64"].layers:
        with tarfile.open(fileobj=io.BytesIO(tar_of(layout, layer))) as tar:
            names += tar.getnames()
            assert all(member.isreg() or member.isdir() for member in tar)
    assert {"bin/hello", "tmp", "proc", "etc/passwd", "data/layer-1.bin", "data/layer-3/63.bin", "app/version"} <= set(
        names
    )
    assert not any(name.startswith(("/", "..")) for name in names)


def test_one_platform_takes_about_the_size_that_was_asked_for(images):
    for image in images:
        for built in image.platforms.values():
            assert abs(built.blob_bytes - SIZE) < 16 * 1024


def test_layers_are_compressible_and_not_packed_and_not(layout, images):
    layers = images[0].platforms["amd64"].layers
    assert {layer.media_type for layer in layers} == {LAYER_TAR, LAYER_GZIP}
    ratios = [layer.size_bytes / len(tar_of(layout, layer)) for layer in layers if layer.size_bytes > 10_000]
    assert min(ratios) < 0.6
    assert max(ratios) > 0.98
    packed = [len(zlib.compress(tar_of(layout, layer), 1)) / len(tar_of(layout, layer)) for layer in layers[1:]]
    assert max(packed) > 0.98


def test_the_second_version_differs_in_one_small_layer(images):
    first, second = (image.platforms["amd64"] for image in images)
    fresh = set(second.layers) - set(first.layers)
    assert len(fresh) == 1
    assert len(second.layers) == len(first.layers)
    assert fresh.pop().size_bytes < SIZE // 20
    assert first.config != second.config


def test_platforms_share_all_but_one_tiny_layer(images):
    amd64, arm64 = (images[0].platforms[name].layers for name in ("amd64", "arm64"))
    fresh = set(arm64) - set(amd64)
    assert [layer.size_bytes < 10_000 for layer in fresh] == [True]


def test_the_seed_decides_every_digest(tmp_path, images):
    again = generate(tmp_path / "again", SIZE, versions=1, seed=7)
    other = generate(tmp_path / "other", SIZE, versions=1, seed=8)
    assert again == images[:1]
    assert other[0].index.digest != images[0].index.digest


def test_nothing_half_written_is_left(layout, images):
    digests = {path.name for path in (layout.directory / "blobs" / "sha256").iterdir()}
    assert all(hashlib.sha256(layout.path(Digest("sha256", name)).read_bytes()).hexdigest() == name for name in digests)


def test_tags_name_the_indexes(layout, images):
    assert layout.tags() == {"demo/app:1": images[0].index, "demo/app:2": images[1].index}


def test_a_tag_can_move(tmp_path):
    layout = Layout(tmp_path)
    first, second = (layout.add_document("application/json", {"n": number}) for number in (1, 2))
    layout.tag("app:1", first)
    layout.tag("app:2", first)
    layout.tag("app:1", second)
    assert Layout(tmp_path).tags() == {"app:1": second, "app:2": first}


def test_an_image_too_small_to_cut_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="at least"):
        generate(tmp_path, 1000)


@pytest.mark.parametrize("index", ["not json", "{}", '{"manifests": [{"digest": "x"}]}', '{"manifests": 3}'])
def test_a_damaged_index_is_named(tmp_path, index):
    layout = Layout(tmp_path)
    (tmp_path / "index.json").write_text(index)
    if "digest" in index:
        index = index.replace('"x"', '"x", "annotations": {"org.opencontainers.image.ref.name": "a:1"}')
        (tmp_path / "index.json").write_text(index)
    with pytest.raises(InvalidInput):
        layout.tags()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the program is for x86-64")
def test_the_program_in_the_image_runs(tmp_path):
    program = tmp_path / "hello"
    program.write_bytes(greeting("amd64", "hello, world\n"))
    program.chmod(0o755)
    result = subprocess.run([program], capture_output=True, check=True, timeout=10)
    assert result.stdout == b"hello, world\n"


def test_the_arm64_program_is_the_known_instructions():
    # Read back with a disassembler (capstone): write(1, text, 3) and exit(0), with the text right behind.
    code = greeting("arm64", "hi\n")[120:-3]
    assert code.hex() == "200080d2e1000010620080d2080880d2010000d4000080d2a80b80d2010000d4"
