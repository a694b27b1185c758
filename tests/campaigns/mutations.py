"""Damage to files: in their bytes, in the structure of PNG and TIFF, and in JSON."""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

INTERESTING = (0, 1, 2, 3, 7, 8, 16, 31, 32, 127, 128, 255, 256, 257, 32767, 32768, 65535, 2**16, 2**24)
INTERESTING += (2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
MANY_DIGITS = "9" * 5000
DEEP = "[" * 20_000 + "]" * 20_000


def mutate(content: bytes, rng: random.Random, others: Callable[[], bytes]) -> bytes:
    """Damage a file's content in one way, sometimes in two; `others` gives a file of another kind."""
    for _ in range(rng.choice((1, 1, 1, 2))):
        structured = [change for starts, change in STRUCTURED if content.startswith(starts)]
        if structured and rng.random() < 0.5:
            content = rng.choice(structured)(content, rng)
        else:
            content = rng.choice(BYTES)(content, rng)
    return rng.choice(others_heads)(content, others(), rng) if rng.random() < 0.08 else content


def _flip(content: bytes, rng: random.Random) -> bytes:
    flipped = bytearray(content)
    # Half of them near the start, where headers are.
    end = len(flipped) if rng.random() < 0.5 else min(len(flipped), 200)
    for _ in range(rng.choice((1, 1, 2, 8, 64)) if end else 0):
        flipped[rng.randrange(end)] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def _truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.choice((0, 1, rng.randrange(len(content) + 1), max(0, len(content) - 1)))]


def _insert(content: bytes, rng: random.Random) -> bytes:
    at, block = rng.randrange(len(content) + 1), rng.randbytes(rng.choice((1, 4, 100, 5000)))
    return content[:at] + rng.choice((block, bytes(len(block)), b"\xff" * len(block))) + content[at:]


def _remove(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + content[at + rng.choice((1, 4, 100)) :]


def _overwrite(content: bytes, rng: random.Random) -> bytes:
    at, length = rng.randrange(len(content) + 1), rng.choice((1, 2, 4, 8, 64))
    block = rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length)))
    number = rng.choice(INTERESTING) % 2**32
    block = rng.choice((block, struct.pack("<I", number), struct.pack(">I", number)))
    return content[:at] + block + content[at + len(block) :]


def _repeat(content: bytes, rng: random.Random) -> bytes:
    return content * 2


BYTES = (_flip, _flip, _truncate, _insert, _remove, _overwrite, _overwrite, _repeat)


def _other_head(content: bytes, other: bytes, rng: random.Random) -> bytes:
    length = rng.choice((4, 8, 16, 64))
    return other[:length] + content[length:]


def _other_content(content: bytes, other: bytes, rng: random.Random) -> bytes:
    return other


others_heads = (_other_head, _other_content)


def _png_chunk(content: bytes, rng: random.Random) -> bytes:
    """Change a chunk of a PNG and give it the right checksum."""
    chunks, at = [], 8
    while at + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    if not chunks:
        return content
    which = rng.choice((0, rng.randrange(len(chunks))))
    kind, data = chunks[which]
    if rng.random() < 0.2:
        chunks[which : which + 1] = rng.choice(([], [chunks[which]] * 2))
    elif kind == b"IDAT" and rng.random() < 0.5:
        data = zlib.compress(_overwrite(b"\0" * rng.choice((10, 1480, 10**6)), rng))
        chunks[which] = kind, data
    else:
        chunks[which] = kind, rng.choice((_flip, _overwrite, _truncate))(data, rng)
    written = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return content[:8] + b"".join(written)


def _tiff_tag(content: bytes, rng: random.Random) -> bytes:
    """Change the number, type, count or value of a tag of a TIFF or BigTIFF."""
    order = "<" if content[:2] == b"II" else ">"
    big = content[2:4] in (b"+\0", b"\0+")
    count, tag, offset = ("Q", "HHQQ", 8) if big else ("H", "HHII", 4)
    try:
        (at,) = struct.unpack_from(order + ("Q" if big else "I"), content, offset)
        for _ in range(rng.choice((0, 0, 0, 1, 2))):  # the directory of a later page
            (entries,) = struct.unpack_from(order + count, content, at)
            (following,) = struct.unpack_from(
                order + ("Q" if big else "I"),
                content,
                at + struct.calcsize(count) + entries * struct.calcsize("=" + tag),
            )
            at = following or at
        (entries,) = struct.unpack_from(order + count, content, at)
        place = at + struct.calcsize(count) + rng.randrange(entries) * struct.calcsize("=" + tag)
        fields = list(struct.unpack_from(order + tag, content, place))
    except (struct.error, ValueError):
        return content
    changed = rng.choice((0, 1, 2, 3, 3, 3))
    value = rng.choice((*INTERESTING, fields[changed] + 1, fields[changed] ^ 1, len(content), at))
    if changed == 0 and rng.random() < 0.5:  # tags that say what the values mean
        value = rng.choice((254, 256, 257, 258, 259, 262, 266, 274, 277, 284, 317, 320, 322, 338, 339, 34675))
    fields[changed] = value % 2 ** (16 if changed < 2 else 64 if big else 32)
    patched = bytearray(content)
    struct.pack_into(order + tag, patched, place, *fields)
    return bytes(patched)


def _text_in_tiff(content: bytes, rng: random.Random) -> bytes:
    """Change a number in the description of a TIFF, or a name in it, at the same length."""
    start = max(content.find(b"<?xml"), content.find(b"ImageJ="), content.find(b'{"shape"'))
    if start < 0:
        return content
    digits = [at for at in range(start, len(content)) if 48 <= content[at] < 58]
    if not digits:
        return content
    at = rng.choice(digits)
    return content[:at] + rng.choice((b"9", b"0", b"-", b"x", b"9e9", b"9" * 5000)) + content[at + 1 :]


STRUCTURED: tuple[tuple[Any, Callable[[bytes, random.Random], bytes]], ...] = (
    (b"\x89PNG", _png_chunk),
    ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _tiff_tag),
    ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _tiff_tag),
    ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _text_in_tiff),
)


def mutate_json(text: str, rng: random.Random) -> str:
    """Change one value of a JSON text: its type or size, a missing or another key, or no JSON at all."""
    document = json.loads(text)
    places = list(_places(document))
    marks: dict[str, str] = {}
    for _ in range(rng.choice((1, 1, 2))):
        if not places:
            break
        parent, key = rng.choice(places)
        action = rng.random()
        if action < 0.15 and isinstance(parent, dict):
            parent.pop(key, None)
        elif action < 0.3 and isinstance(parent, dict):
            parent[rng.choice(("extra", "", "a" * 5000, "é\udcff", "step", "seed"))] = _value(rng, marks)
        elif action < 0.4 and isinstance(parent, list):
            parent.insert(key, _value(rng, marks))
        else:
            parent[key] = _value(rng, marks)
    if rng.random() < 0.05:
        document = _value(rng, marks)
    changed = json.dumps(document)
    for mark, raw in marks.items():
        changed = changed.replace(f'"{mark}"', raw)
    if rng.random() < 0.05:
        at = rng.randrange(len(changed) + 1)
        changed = changed[:at] + rng.choice(("", "}", '"', "\0", "[")) + changed[at + 1 :]
    return changed


def _places(document: Any) -> Any:
    """Yield each place of a document, as its container and the key there."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in list(items):
        yield document, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _value(rng: random.Random, marks: dict[str, str]) -> Any:
    """Return any value; those that Python cannot write are a mark, replaced afterwards."""
    raw = rng.choice((MANY_DIGITS, f"-{MANY_DIGITS}", "NaN", "-Infinity", "1e999", DEEP, '"\\ud800"'))
    mark = f"mark{len(marks)}"
    value = rng.choice(
        (mark, None, True, False, 0, 1, -1, 2, 12, 60, 2.5, -0.0, 1e-300, 1e300, 10**6, 2**31, 2**63, 10**20,
         "", "unet", "fcn", "sliding-window", "same", "valid", "text", "a" * 5000, "\0", "../..",
         "/etc/passwd", [], {}, [1], [[]], {"a": 1}, [None], [0, 255], list(range(300)))
    )  # fmt: skip
    if value == mark:
        marks[mark] = raw
    return value
