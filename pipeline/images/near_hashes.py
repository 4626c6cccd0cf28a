"""64-bit hashes, found again by those that differ from them in a few bits."""

from collections import defaultdict
from collections.abc import Iterator

HASH_BITS = 64


class NearHashes:
    """A growing list of hashes; looking one up does not touch all of them.

    Cut two hashes that differ in at most h bits into h // 2 + 1 bands: in one of them they differ
    in at most one bit. So a look-up asks, per band of w bits, for its w + 1 nearest values and
    touches only hashes that have one: of n hashes, n · (w + 1) / 2^w per band on average.
    """

    def __init__(self, max_hamming: int) -> None:
        """Find what differs in at most ``max_hamming`` bits."""
        self._max_hamming = max_hamming
        self._bands: list[dict[int, list[int]]] = [
            defaultdict(list) for _ in range(max_hamming // 2 + 1)
        ]
        self._hashes: list[int] = []

    def add(self, value: int) -> None:
        """Append a hash."""
        for band, (part, _) in zip(self._bands, self._parts(value), strict=True):
            band[part].append(len(self._hashes))
        self._hashes.append(value)

    def near(self, value: int) -> list[int]:
        """Places of all hashes within the distance, ascending."""
        found = set()
        for band, (part, width) in zip(self._bands, self._parts(value), strict=True):
            for nearest in (part, *(part ^ 1 << bit for bit in range(width))):
                for index in band.get(nearest, ()):
                    if (self._hashes[index] ^ value).bit_count() <= self._max_hamming:
                        found.add(index)
        return sorted(found)

    def _parts(self, value: int) -> Iterator[tuple[int, int]]:
        """The bands of a hash, and how many bits each has."""
        num_bands = len(self._bands)
        for band in range(num_bands):
            start, end = HASH_BITS * band // num_bands, HASH_BITS * (band + 1) // num_bands
            yield value >> start & (1 << (end - start)) - 1, end - start
