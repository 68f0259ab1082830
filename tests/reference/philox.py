"""Random integers, as a function of key and counter."""

from functools import cache


def philox(key: int, stream: int, i: int) -> list[int]:
    """Philox4x32-10 (Salmon et al. 2011): four 32-bit words."""
    k0, k1 = key % 2**32, key >> 32 & 0xFFFF_FFFF
    c0, c1, c2, c3 = i % 2**32, i >> 32, stream % 2**32, stream >> 32 & 0xFFFF_FFFF
    for _ in range(10):
        high, low = 0xCD9E8D57 * c2, 0xD2511F53 * c0
        c0, c1, c2, c3 = high >> 32 ^ c1 ^ k0, high % 2**32, low >> 32 ^ c3 ^ k1, low % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [c0, c1, c2, c3]


def uniform_words(k0: int, k1: int, stream: int, count: int) -> list[int]:
    key = k0 % 2**32 | k1 % 2**32 << 32
    return [word for block in range(-(-count // 4)) for word in philox(key, stream, block)][:count]


@cache
def permutation(key: int, stream: int, n: int) -> list[int]:
    def order(i: int) -> tuple[int, int]:
        words = philox(key, stream, i)
        return (words[0] << 31 | words[1] >> 1, i)

    return sorted(range(n), key=order)
