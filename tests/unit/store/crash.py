"""A process that uses a store and is killed, for test_crash.py.

`python -m tests.unit.store.crash lines ROOT SEED ROUNDS`: forks a child per round that dies at one line of the store's
code, and checks what it left. `python -m tests.unit.store.crash threads ROOT SEED`: writes for ever in four threads.
Acknowledgements: `+ digest` is whole and stays so; `? digest` is about to go, so that it may be there or not.
"""

import os
import random
import shutil
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import p2pdist.store
from p2pdist.core.digest import Digest
from p2pdist.core.metainfo import file_name
from p2pdist.store import BlobStore

from .samples import PIECE, content, layout_of, metainfo_of, piece, read, write_all

CODE = str(Path(p2pdist.store.__file__).parent)
BOOT_ID = Path(__file__)  # any file serves: what counts is that it's the same boot every time


def say(out: int, sign: str, digest: Digest) -> None:
    os.write(out, f"{sign} {digest}\n".encode())


def scenario(root: Path, out: int) -> None:
    """Everything that changes the disk, once."""
    blobs = [content(seed, 2 * PIECE + seed) for seed in range(6)]
    digests = [Digest.of(data) for data in blobs]
    with BlobStore.open(root, quota_bytes=7 * PIECE, boot_id_path=BOOT_ID) as store:
        store.on_evicted(lambda digest: say(out, "?", digest))
        for number, (digest, data) in enumerate(zip(digests, blobs, strict=True)):
            if store.has(digest):
                continue
            for old, _ in store.digests():
                say(out, "?", old)
            partial = store.begin(digest, layout_of(data), upstream="docker.io", repository="library/app")
            for old, _ in store.digests():
                say(out, "+", old)
            partial.write_piece(1, piece(data, 1))
            write_all(partial, data)
            if number == 0:
                partial.discard()
                continue
            if number == 1:
                store.save_metainfo(digest, metainfo_of(data))
            partial.commit()
            say(out, "+", digest)
            if number == 2:
                store.save_metainfo(digest, metainfo_of(data))
                store.put_manifest(Digest.of(b"{}"), "text/plain", b"{}", "docker.io", "library/app")
                say(out, "?", digest)
                store.quarantine(digest, "for the test")
        say(out, "?", digests[5])
        store.remove(digests[5])


def dying_at(line: int) -> Any:
    """A trace function that kills the process when the store's code comes to its `line`-th line."""
    left = line

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(CODE):
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


def run_and_die(root: Path, line: int) -> tuple[bool, list[str]]:
    """Whether the child lived to the end, and what it acknowledged."""
    receiving, out = os.pipe()
    child = os.fork()
    if child == 0:
        sys.settrace(dying_at(line))
        scenario(root, out)
        sys.settrace(None)
        os._exit(0)
    os.close(out)
    with os.fdopen(receiving) as lines:
        said = lines.read().splitlines()
    return os.waitpid(child, 0)[1] == 0, said


def check(root: Path, said: list[str]) -> None:
    """Nothing partial is taken for whole, nothing whole is lost, nothing lies about."""
    last_word = {line[2:]: line[0] for line in said}
    with BlobStore.open(root, boot_id_path=BOOT_ID) as store:
        held = dict(store.digests())
        for digest, size_bytes in held.items():
            data = read(store, digest)
            assert len(data) == size_bytes, digest
            assert Digest.of(data) == digest, digest
            metainfo = store.metainfo(digest)
            assert metainfo is None or metainfo == metainfo_of(data), digest
        lost = [text for text, sign in last_word.items() if sign == "+" and Digest.parse(text) not in held]
        assert not lost, lost
        assert {path.name for path in store.save_path.iterdir()} == {file_name(digest) for digest in held}
        assert store.used_bytes == sum(held.values())
        assert store.unverified() == []


def die_at_lines(root: Path, seed: int, rounds: int) -> None:
    dice = random.Random(seed)
    total = 1 << 10
    while not run_and_die(root, total)[0]:
        shutil.rmtree(root)
        total *= 2
    low = total // 2
    for number in range(rounds):
        # Every second round begins in what the round before left, so that cleaning up is killed too.
        lived, said = run_and_die(root, dice.randrange(1, low + 1))
        if number % 2 and not lived:
            _, more = run_and_die(root, dice.randrange(1, low // 2))
            said += more
        check(root, said)
        shutil.rmtree(root)
    os.write(1, b"done\n")


def write_for_ever(root: Path, seed: int) -> None:
    with BlobStore.open(root, quota_bytes=40 * PIECE, boot_id_path=BOOT_ID) as store:
        store.on_evicted(lambda digest: say(1, "?", digest))

        def work(number: int) -> None:
            dice = random.Random(f"{seed} {number}")
            while True:
                data = dice.randbytes(dice.randrange(3 * PIECE))
                with store.begin(Digest.of(data), layout_of(data)) as partial:
                    write_all(partial, data)
                    if dice.random() < 0.8:
                        partial.commit()
                        say(1, "+", partial.digest)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    if sys.argv[1] == "lines":
        die_at_lines(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        write_for_ever(Path(sys.argv[2]), int(sys.argv[3]))
