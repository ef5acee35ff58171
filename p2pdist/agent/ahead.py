"""Which layers a daemon will ask for next, once it asks for one of an image: the small ones that follow it. Pure.

A daemon asks for a few layers at a time, and for the next one when it has one whole. For large layers that keeps links
busy; of small ones each costs its round to the tracker, and on a cold pull one to the origin, while little is under
way. So the agent begins with the layers that follow in the manifest, before they are asked for, within bounds:

- A manifest alone begins nothing: many are only looked at. A layer that is asked for whole does; a part of one doesn't,
  because who reads lazily wants parts of the others too. The config doesn't either: it says nothing of which layers
  the daemon has unpacked already.
- Layers follow each other in the order of the manifest, from the one that was asked for on. What a daemon has unpacked
  is the beginning of an image, which it shares with others; that is never begun.
- `AHEAD_BYTES` of one image at most that nobody has asked for yet, in layers of at most `EACH_BYTES`; a larger one ends
  the row. So a daemon that stops asking leaves no more than that behind, in the store like any other blob. Of layers
  below `TINY_BYTES`, which cost processors more than links, only `AHEAD_TINY`: more would wait for each other, and the
  first for all. Larger ones are begun as far ahead as that, so that all hosts ask before the bytes are there.

Knows manifests, not how blobs are got.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from p2pdist.core.digest import Digest
from p2pdist.oci.descriptor import Descriptor
from p2pdist.oci.manifest import Manifest

AHEAD_BYTES = 8 * 1024 * 1024
AHEAD_TINY = 4
EACH_BYTES = 2 * 1024 * 1024
TINY_BYTES = 256 * 1024
_REMEMBERED_IMAGES = 256


@dataclass(slots=True)
class _Image:
    """The layers of one manifest, in order, and those of them that were begun and that nobody has asked for."""

    layers: tuple[Descriptor, ...]
    ahead: dict[Digest, int] = field(default_factory=dict)


class Ahead:
    """The images whose manifests were served last."""

    def __init__(self) -> None:
        self._images: OrderedDict[tuple[str, str, Digest], _Image] = OrderedDict()

    def served(self, upstream: str, repository: str, digest: Digest, manifest: Manifest) -> None:
        """Somebody got this manifest from us."""
        key = (upstream, repository, digest)
        if key not in self._images:
            self._images[key] = _Image(tuple({layer.digest: layer for layer in manifest.layers}.values()))
            if len(self._images) > _REMEMBERED_IMAGES:
                self._images.popitem(last=False)
        self._images.move_to_end(key)

    def take(self, digest: Digest) -> int:
        """Somebody asked for a blob: its size if it was begun ahead and this is the first to ask for it, else 0."""
        return max((image.ahead.pop(digest, 0) for image in self._images.values()), default=0)

    def following(
        self, upstream: str, repository: str, digest: Digest, here: Callable[[Digest], bool]
    ) -> list[Descriptor]:
        """The layers to begin with when all of a blob was asked for; none that is `here` or on its way.

        Where several images have the layer, the one whose manifest was served last counts.
        """
        for (of_upstream, of_repository, _), image in reversed(self._images.items()):
            if (of_upstream, of_repository) == (upstream, repository):
                for position, layer in enumerate(image.layers):
                    if layer.digest == digest:
                        return self._following(image, position + 1, here)
        return []

    def _following(self, image: _Image, position: int, here: Callable[[Digest], bool]) -> list[Descriptor]:
        chosen = []
        left_bytes = AHEAD_BYTES - sum(image.ahead.values())
        for layer in image.layers[position:]:
            # What has URLs of its own its registry may not give away.
            if layer.urls or here(layer.digest) or layer.digest in image.ahead:
                continue
            left_bytes -= layer.size_bytes
            tiny = sum(size_bytes < TINY_BYTES for size_bytes in image.ahead.values())
            if layer.size_bytes > EACH_BYTES or left_bytes < 0 or tiny >= AHEAD_TINY:
                break
            image.ahead[layer.digest] = layer.size_bytes
            chosen.append(layer)
        return chosen
