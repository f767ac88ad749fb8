"""Minimal ICC profiles (ICC.1:2010): matrices and tone curves for RGB, a curve for gray, a table for CMYK."""

import struct
from collections.abc import Sequence

import numpy as np

# XYZ of red, green and blue, adapted to D50, as rows.
SRGB = np.array([[0.43607, 0.22249, 0.01392], [0.38515, 0.71687, 0.09708], [0.14307, 0.06061, 0.71410]])
DISPLAY_P3 = np.array([[0.51512, 0.24120, -0.00105], [0.29198, 0.69225, 0.04189], [0.15710, 0.06657, 0.78407]])
ADOBE_RGB = np.array([[0.60974, 0.31111, 0.01947], [0.20528, 0.62567, 0.06087], [0.14919, 0.06322, 0.74457]])
_D50 = (0.9642, 1.0, 0.8249)


def srgb_to_linear(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(values: np.ndarray) -> np.ndarray:
    clipped = values.clip(0, 1)
    return np.where(clipped <= 0.0031308, clipped * 12.92, 1.055 * clipped ** (1 / 2.4) - 0.055)


def rgb_profile(primaries: np.ndarray, curve: bytes | None = None) -> bytes:
    """The profile of an RGB space; its curve is that of sRGB by default."""
    tone = curve or _sampled_curve(srgb_to_linear(np.linspace(0, 1, 1024)))
    tags = {f"{color}XYZ".encode(): _xyz(row) for color, row in zip("rgb", primaries, strict=True)}
    return _profile(b"RGB ", b"XYZ ", tags | {f"{color}TRC".encode(): tone for color in "rgb"})


def gray_profile(gamma: float) -> bytes:
    return _profile(b"GRAY", b"XYZ ", {b"kTRC": gamma_curve(gamma)})


def cmyk_profile() -> bytes:
    """Lightness falls with the sum of the inks, and no ink has a hue: a CMYK image becomes gray."""
    identity = bytes(range(256))
    inks = [sum(map(int, f"{corner:04b}")) for corner in range(16)]
    table = b"".join(bytes([255 - 255 * ink // 4, 128, 128]) for ink in inks)  # L*, a*, b* of 8 bits
    matrix = b"".join(map(_fixed, np.eye(3).ravel()))
    lookup = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + 4 * identity + table + 3 * identity
    return _profile(b"CMYK", b"Lab ", {b"A2B0": lookup})


def gamma_curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def _sampled_curve(values: np.ndarray) -> bytes:
    samples = np.round(values * 65535).astype(">u2")
    return b"curv" + bytes(4) + struct.pack(">I", len(samples)) + samples.tobytes()


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(map(_fixed, values))


def _profile(space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    name = b"test\0"
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(78), b"wtpt": _xyz(_D50), **tags}
    table, body, begin = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        table += tag + struct.pack(">II", begin + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    header = struct.pack(">I4sI4s4s4s", begin + len(body), b"", 0x04200000, kind, space, connection)
    header += bytes(12) + b"acsp" + bytes(28) + b"".join(map(_fixed, _D50))
    return header.ljust(128, b"\0") + table + body
