"""The one program in the demo's image: a static Linux executable that prints a line and ends.

Made from its few machine instructions here, so that a container of the generated image really runs on either platform
and no compiler or download is needed. The layout is the smallest that the kernel loads: an ELF header (System V ABI,
"Object Files"), one segment that maps the whole file, code, text.
"""

import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType

_LOAD_ADDRESS = 0x400000
_ELF_HEADER_BYTES = 64
_PROGRAM_HEADER_BYTES = 56
_CODE_OFFSET = _ELF_HEADER_BYTES + _PROGRAM_HEADER_BYTES
_MAX_TEXT_BYTES = 4096


def _amd64(text_bytes: int) -> bytes:
    return (
        b"\xb8\x01\x00\x00\x00"  # mov eax, 1        write(
        b"\xbf\x01\x00\x00\x00"  # mov edi, 1          1,
        b"\x48\x8d\x35\x10\x00\x00\x00"  # lea rsi, [rip+16]   the text behind the code,
        b"\xba%b"  # mov edx, length     its length)
        b"\x0f\x05"  # syscall
        b"\xb8\x3c\x00\x00\x00"  # mov eax, 60       exit(
        b"\x31\xff"  # xor edi, edi        0)
        b"\x0f\x05"  # syscall
    ) % struct.pack("<I", text_bytes)


def _arm64(text_bytes: int) -> bytes:
    return struct.pack(
        "<8I",
        0xD2800020,  # mov x0, #1        write(1,
        0x100000E1,  # adr x1, .+28        the text behind the code,
        0xD2800002 | text_bytes << 5,  # mov x2, #length     its length)
        0xD2800808,  # mov x8, #64
        0xD4000001,  # svc #0
        0xD2800000,  # mov x0, #0        exit(0)
        0xD2800BA8,  # mov x8, #93
        0xD4000001,  # svc #0
    )


_MACHINES: Mapping[str, tuple[int, Callable[[int], bytes]]] = MappingProxyType(
    {"amd64": (62, _amd64), "arm64": (183, _arm64)}
)
ARCHITECTURES = tuple(_MACHINES)


def greeting(architecture: str, text: str) -> bytes:
    """The executable that prints `text` on an architecture (an OCI name, one of `ARCHITECTURES`)."""
    message = text.encode()
    if len(message) > _MAX_TEXT_BYTES:
        raise ValueError(f"a text of {len(message)} bytes doesn't fit; {_MAX_TEXT_BYTES} do")
    machine, assemble = _MACHINES[architecture]
    code = assemble(len(message))
    size = _CODE_OFFSET + len(code) + len(message)
    elf_header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",  # 64 bit, little endian, version 1
        2,  # an executable
        machine,
        1,
        _LOAD_ADDRESS + _CODE_OFFSET,
        _ELF_HEADER_BYTES,
        0,
        0,
        _ELF_HEADER_BYTES,
        _PROGRAM_HEADER_BYTES,
        1,
        0,
        0,
        0,
    )
    load, read_and_execute, alignment = 1, 5, 0x10000
    program_header = struct.pack(
        "<IIQQQQQQ", load, read_and_execute, 0, _LOAD_ADDRESS, _LOAD_ADDRESS, size, size, alignment
    )
    return elf_header + program_header + code + message
