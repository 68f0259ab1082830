"""Counter-based random integers, in plain integers."""


def philox(key: int, stream: int, index: int) -> list[int]:
    """Philox4x32-10: four 32-bit words."""
    c0, c1, c2, c3 = index & 0xFFFFFFFF, index >> 32, stream & 0xFFFFFFFF, stream >> 32 & 0xFFFFFFFF
    k0, k1 = key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = p1 >> 32 ^ c1 ^ k0, p1 & 0xFFFFFFFF, p0 >> 32 ^ c3 ^ k1, p0 & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return [c0, c1, c2, c3]
