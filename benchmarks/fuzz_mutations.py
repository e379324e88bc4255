"""How `fuzz.py` damages a file: blindly, by its bytes, and knowingly, by what JSON, TOML, weights and images are."""

import json
import random
import tomllib
import zlib
from typing import Any

import tomli_w

NASTY: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63), 10**30, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"),
    "", "x", "x" * 10_000, "0", "none", "\x00\x1b[31m\x9b", "../../../etc/passwd", "/dev/zero", "<script>x</script>",
    "\u202egnp.exe", "\ud800", "a\nb", "$\\frac{", "{{ 7 * 7 }}",
    [], {}, [1], ["x"], [[1]], [None], {"x": 1}, [0.5] * 3,
)  # fmt: skip
DEEP = "\0deep\0"
SIZES = (0, 1, 2, 255, 65535, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


def damaged_bytes(content: bytes, rng: random.Random, *, head: int | None = None) -> bytes:
    """One to eight blind changes; head: only within the first so many bytes."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        end = min(head or len(data), len(data))
        at = rng.randrange(end + 1)
        act = rng.randrange(6)
        if act == 0 and at < end:
            data[at] ^= 1 << rng.randrange(8)
        elif act == 1:
            data[at : at + rng.randrange(1, 9)] = rng.randbytes(rng.randrange(1, 9))
        elif act == 2:
            data[at:at] = rng.choice([b"\x00", b"\xff", b'"', b"[", b"{", b"\n", b"-", b"9" * 400, rng.randbytes(64)])
        elif act == 3:
            del data[at : at + rng.choice([1, 4, 100])]
        elif act == 4:
            del data[at:]
        else:
            start = rng.randrange(len(data) + 1)
            data[at:at] = data[start : start + rng.choice([1, 16, 300])]
    return bytes(data)


def damaged_json(content: bytes, rng: random.Random) -> bytes:
    """A JSON file with values that are wrong, or with wrong bytes."""
    if rng.random() < 0.3:
        return damaged_bytes(content, rng)
    text = _dumped(damaged_values(json.loads(content), rng), rng)
    if rng.random() < 0.1:
        text = text.replace("{", '{"status": "done", "status": [], ', 1)  # the same key again
    return text.encode("utf-8", "surrogatepass")


def damaged_lines(content: bytes, rng: random.Random) -> bytes:
    """A file of JSON lines, one of them wrong, one twice, or wrong bytes."""
    if rng.random() < 0.3:
        return damaged_bytes(content, rng)
    lines = content.split(b"\n")
    at = rng.randrange(max(1, len(lines) - 1))
    lines[at] = damaged_json(lines[at], rng)
    if rng.random() < 0.2:
        lines.insert(at, lines[rng.randrange(len(lines))])
    return b"\n".join(lines)


def damaged_toml(content: bytes, rng: random.Random) -> bytes:
    """A TOML file with values that are wrong, lines that are moved, or wrong bytes."""
    choice = rng.random()
    if choice < 0.25:
        return damaged_bytes(content, rng)
    if choice < 0.4:
        lines = content.split(b"\n")
        lines.insert(rng.randrange(len(lines)), lines.pop(rng.randrange(len(lines))))
        extra = [
            b"",
            b"[ali]",
            b"[[lm]]",
            b"a." * 3000 + b"b = 1",
            b"x = " + b"[" * 3000,
            b"lr = 1979-05-27",
            b"epochs = 0x7f",
        ]
        return b"\n".join([*lines, rng.choice([*extra, rng.choice(lines)])])
    values = damaged_values(tomllib.loads(content.decode()), rng)
    text = tomli_w.dumps(_without_none(values if isinstance(values, dict) else {"x": values}))
    return text.encode("utf-8", "surrogatepass")


def damaged_safetensors(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file with a wrong header, a wrong description of the network in it, or wrong bytes."""
    choice = rng.random()
    if choice < 0.2:
        return damaged_bytes(content, rng, head=rng.choice([8, 200, None]))
    length = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    metadata = header.get("__metadata__", {})
    if choice < 0.6 and metadata:  # what the file says of itself
        key = rng.choice(list(metadata))
        metadata[key] = _dumped(damaged_values(json.loads(metadata[key]), rng), rng)
    elif choice < 0.9:
        name = rng.choice([key for key in header if key != "__metadata__"])
        entry = header[name]
        act = rng.randrange(5)
        if act == 0:
            entry["shape"] = [rng.choice(SIZES) for _ in range(rng.randrange(5))]
        elif act == 1:
            entry["data_offsets"] = [rng.choice([*SIZES, len(body)]) for _ in range(2)]
        elif act == 2:
            entry["dtype"] = rng.choice(["F64", "I8", "BOOL", "BF16", "U16", "F8_E4M3", "C64", "F4", "x"])
        elif act == 3:
            header[f"blocks.{rng.choice(SIZES)}.attn.qkv.weight"] = header.pop(name)
        else:
            header = damaged_values(header, rng)
    else:
        body = damaged_bytes(body, rng)
    text = _dumped(header, rng).encode("utf-8", "surrogatepass")
    claimed = len(text) if rng.random() < 0.9 else rng.choice([*SIZES, 2**63, 2**64 - 1])
    return claimed.to_bytes(8, "little") + text + body


def damaged_image(content: bytes, rng: random.Random) -> bytes:
    """An image with wrong bytes, in its header mostly, or with a header that claims another size."""
    if rng.random() < 0.3:
        width, height = (rng.choice([*SIZES, 9000]) for _ in range(2))
        if content.startswith(b"\x89PNG"):
            header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + content[24:29]
            return content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:]
        if content.startswith(b"BM"):
            return content[:18] + width.to_bytes(4, "little") + height.to_bytes(4, "little") + content[26:]
        if content.startswith(b"P6"):
            return f"P{rng.randrange(1, 8)} {width} {height} {rng.choice(SIZES)}\n".encode() + content[-2000:]
        if content.startswith(b"GIF"):
            return content[:6] + rng.randbytes(4) + content[10:]
    return damaged_bytes(content, rng, head=rng.choice([32, 64, 512, None]))


def damaged_values(value: Any, rng: random.Random) -> Any:
    """`value` with one to three of its parts replaced, left out, repeated or renamed."""
    for _ in range(rng.choice([1, 1, 2, 3])):
        value = _damaged_value(value, rng)
    return value


def _damaged_value(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.95:
        key = rng.choice(list(value))
        act = rng.random()
        if act < 0.1:
            return {name: item for name, item in value.items() if name != key}
        if act < 0.15:
            return value | {rng.choice(["x", "", "\ud800", "a.b", "__class__", key + " "]): value[key]}
        return value | {key: _damaged_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.6:
        at = rng.randrange(len(value))
        if rng.random() < 0.2:
            return value[:at] + value[at + 1 :]
        if rng.random() < 0.1:
            return value * 50
        return [*value[:at], _damaged_value(value[at], rng), *value[at + 1 :]]
    return DEEP if rng.random() < 0.02 else rng.choice(NASTY)


def _dumped(value: Any, rng: random.Random) -> str:
    depth = rng.choice([10, 500, 100_000])
    return json.dumps(value).replace(json.dumps(DEEP), "[" * depth + "]" * depth)


def _without_none(value: Any) -> Any:
    """TOML has no null, and keys and numbers of its own."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value if item is not None]
    return value
