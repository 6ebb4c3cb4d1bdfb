"""The invented book: every record of one (dataset, symbol, trading day), made piece by piece.

A day is cut into buckets of equal length. How many records a bucket has, and where the price stands at its edges, is
drawn once per day; what happens inside a bucket depends on nothing but the bucket. So any part of a day can be made
without the rest, always with the same records, in memory that does not grow with the day. Within a bucket the book is
exact: an `A`, `C` or `M` record changes the level it names, `T` changes nothing, `R` empties the book, which is then
rebuilt level by level. Sizes start anew at a bucket's edge; prices go on.

The numbers are made for plausibility, they are no vendor's data. They come from numpy's generators, so they are the
same on every machine with the same numpy.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from connectors.sandbox._book import LEVELS, MOVE_STRIDE, Bucket
from connectors.sandbox._dbn import RECORD_BYTES, RECORD_DTYPE, SCHEMA_RTYPE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

    from numpy.typing import NDArray

NS_PER_S: Final = 1_000_000_000
MAX_RECORDS_PER_HOUR: Final = 20_000_000

_FLAG_LAST: Final = 128
_BUCKET_SECONDS: Final = (600, 300, 120, 60, 30, 15, 10, 5, 2, 1)  # each divides the hour, so UTC midnight is an edge
_BUCKET_MEAN: Final = 4_000
_CLEAR_NEEDS: Final = 64  # records that a bucket with an R record must have
_TIE_SHARE: Final = 0.04
_U64 = np.uint64

# (minutes, relative activity) of a full session from 04:00 to 20:00 ET
_ACTIVITY: Final = (
    (180, 0.15),
    (60, 0.35),
    (90, 0.8),
    (15, 6.0),
    (45, 3.5),
    (90, 2.0),
    (150, 1.2),
    (60, 1.8),
    (30, 4.5),
    (30, 0.6),
    (210, 0.1),
)
_FULL_DAY: Final = np.concatenate([np.full(minutes, weight) for minutes, weight in _ACTIVITY])
_FULL_DAY_OPEN: Final = 330  # 09:30 ET in minutes after 04:00
_FULL_DAY_CLOSE: Final = 720  # 16:00 ET


def activity_by_minute(regular_minutes: int) -> NDArray[np.float64]:
    """Relative activity of each minute from 04:00 ET to four hours after a close `regular_minutes` after 09:30.

    The mean of a full day is 1; a half day loses minutes from the quiet middle.
    """
    cut = _FULL_DAY_CLOSE - _FULL_DAY_OPEN - regular_minutes
    middle = 480  # noon
    curve = np.concatenate([_FULL_DAY[: middle - cut // 2], _FULL_DAY[middle - cut // 2 + cut :]])
    return np.asarray(curve / _FULL_DAY.mean(), dtype=np.float64)


@dataclass(frozen=True)
class TapeKey:
    """What decides every record of a day: the session's bounds in ns (UTC) and the wanted density belong to it."""

    dataset: str
    publisher_id: int
    symbol: str
    day: date
    open_ns: int
    close_ns: int
    records_per_hour: float


def stable_hash(*parts: object) -> int:
    """128 bits that depend on `parts` alone, on every machine and in every process."""
    digest = hashlib.blake2b("|".join(map(str, parts)).encode(), digest_size=16).digest()
    return int.from_bytes(digest, "little")


class SessionTape:
    """All records of one session of one symbol, made when asked for."""

    def __init__(self, key: TapeKey) -> None:
        self.key = key
        self._seed = stable_hash(key.dataset, key.symbol, key.day)
        rng = np.random.default_rng([self._seed, 0])
        per_second = key.records_per_hour / 3600
        self._width_s = next((w for w in _BUCKET_SECONDS if w * per_second <= _BUCKET_MEAN), 1)
        self._width_ns = self._width_s * NS_PER_S
        buckets = (key.close_ns - key.open_ns) // self._width_ns
        minutes = (key.close_ns - key.open_ns) // (60 * NS_PER_S)
        activity = activity_by_minute(minutes - _FULL_DAY_OPEN - 240)
        starts_s = np.arange(buckets) * self._width_s
        weights = np.add.reduceat(np.repeat(activity, 60), starts_s) / self._width_s
        noise = rng.gamma(16, 1 / 16, buckets)
        self._counts = rng.poisson(weights * noise * per_second * self._width_s)
        self._first_sequence = np.concatenate([[0], np.cumsum(self._counts)[:-1]]) + 1_000
        self._depth = self._draw_depth(rng, starts_s)
        self._cleared = self._draw_clears(rng, starts_s)
        self._pairs = np.where(self._cleared, 0, self._counts // (2 * MOVE_STRIDE))
        self._mid_ticks, self._spread_ticks = self._draw_price_path(rng)
        self._top_counts: dict[int, int] = {}

    def _draw_depth(self, rng: np.random.Generator, starts_s: NDArray[Any]) -> NDArray[np.int64]:
        """Visible levels per bucket and side: thin before 07:00 ET, seldom below ten afterwards."""
        shape = (len(starts_s), 2)
        early = (starts_s < 3 * 3600)[:, None]
        thin = np.where(early, rng.random(shape) < 0.7, rng.random(shape) < 0.03)  # noqa: PLR2004 - shares
        return np.where(thin, rng.integers(4, LEVELS, shape), LEVELS)

    def _draw_clears(self, rng: np.random.Generator, starts_s: NDArray[Any]) -> NDArray[np.bool_]:
        """Which buckets hold an R record: one before and one after 09:30 ET each day, and few others."""
        cleared = rng.random(len(starts_s)) < 1 / 200
        for first_minute, last_minute in ((275, 325), (335, 410)):  # 08:35-09:25 and 09:35-10:50 ET
            at_s = int(rng.integers(first_minute, last_minute)) * 60
            cleared |= starts_s == at_s - at_s % self._width_s
        return np.asarray(cleared & (self._counts >= _CLEAR_NEEDS))

    def _draw_price_path(self, rng: np.random.Generator) -> tuple[NDArray[np.int64], int]:
        """Best bid in ticks at each bucket edge (one more than buckets), and the smallest spread in ticks."""
        symbol = np.random.default_rng(stable_hash(self.key.dataset, self.key.symbol))
        usual_ticks = int(np.exp(symbol.uniform(np.log(1_500), np.log(60_000))))
        spread_ticks = int(symbol.integers(1, 4))
        first = int(usual_ticks * rng.uniform(0.96, 1.04))
        steps = np.rint(rng.normal(0, 1, len(self._counts)) * np.sqrt(self._pairs / 2)).astype(np.int64)
        steps = np.clip(steps, -self._pairs, self._pairs)
        reach = max(first // 4, 1)
        path = np.concatenate([[0], np.cumsum(steps)])
        # A walk that is reflected at +-reach keeps every step at most as large as it was drawn.
        folded = np.abs((path + reach) % (4 * reach) - 2 * reach) - reach
        return first - folded, spread_ticks

    def _range_of_buckets(self, start_ns: int, end_ns: int) -> range:
        first = max((start_ns - self.key.open_ns) // self._width_ns, 0)
        last = min(-((self.key.open_ns - end_ns) // self._width_ns), len(self._counts))
        return range(first, max(first, last))

    def _bucket_ns(self, bucket: int) -> int:
        return self.key.open_ns + bucket * self._width_ns

    def _whole(self, bucket: int, start_ns: int, end_ns: int) -> bool:
        return start_ns <= self._bucket_ns(bucket) and self._bucket_ns(bucket + 1) <= end_ns

    def count(self, schema: str, start_ns: int, end_ns: int) -> int:
        """Exactly how many records `blocks` yields for the same arguments."""
        total = 0
        for bucket in self._range_of_buckets(start_ns, end_ns):
            if not self._counts[bucket]:
                continue
            whole = self._whole(bucket, start_ns, end_ns)
            if schema == "mbp-1":
                if not whole or bucket not in self._top_counts:
                    top = self._events(bucket).level == 0
                    self._top_counts[bucket] = int(top.sum())
                    if not whole:
                        total += int(np.count_nonzero(top[self._part(self._ts_recv(bucket), start_ns, end_ns)]))
                        continue
                total += self._top_counts[bucket]
            elif whole:
                total += int(self._counts[bucket])
            else:
                part = self._part(self._ts_recv(bucket), start_ns, end_ns)
                total += part.stop - part.start
        return total

    @staticmethod
    def _part(ts_recv: NDArray[np.int64], start_ns: int, end_ns: int) -> slice:
        first, last = np.searchsorted(ts_recv, [start_ns, end_ns])
        return slice(int(first), int(last))

    def blocks(
        self, schema: str, start_ns: int, end_ns: int, instrument_ids: dict[int, int]
    ) -> Iterator[NDArray[np.void]]:
        """Record arrays in order of `ts_recv`, for `start_ns <= ts_recv < end_ns`.

        Args:
            schema: `mbp-10`, or `mbp-1`: then only the records that concern the best level.
            start_ns: first `ts_recv`, inclusive.
            end_ns: last `ts_recv`, exclusive.
            instrument_ids: instrument id by UTC day number (days since the epoch); a missing day yields nothing.
        """
        for bucket in self._range_of_buckets(start_ns, end_ns):
            instrument_id = instrument_ids.get(self._bucket_ns(bucket) // (86_400 * NS_PER_S))
            if instrument_id is None or not self._counts[bucket]:
                continue
            ts_recv = self._ts_recv(bucket)
            part = self._part(ts_recv, start_ns, end_ns)
            if part.stop > part.start:
                block = self._records(schema, bucket, ts_recv, instrument_id, part)
                if len(block):
                    yield block

    # --- one bucket ---------------------------------------------------------------------------------------------

    def _rng(self, bucket: int, stream: int) -> np.random.Generator:
        return np.random.Generator(np.random.SFC64([self._seed & 0xFFFFFFFFFFFFFFFF, bucket, stream]))

    def _ts_recv(self, bucket: int) -> NDArray[np.int64]:
        """Receive times of a bucket: half of them in bursts, some equal to the one before, never falling."""
        n = int(self._counts[bucket])
        rng = self._rng(bucket, 1)
        offsets = rng.random(n) * self._width_ns
        in_bursts = n // 2
        centres = rng.random(max(n // 24, 1)) * self._width_ns
        offsets[:in_bursts] = centres[rng.integers(0, len(centres), in_bursts)]
        offsets[:in_bursts] += rng.exponential(200_000, in_bursts)
        np.minimum(offsets, self._width_ns - 1, out=offsets)
        offsets.sort()
        ts = offsets.astype(np.int64)
        ts[1:][rng.random(max(n - 1, 0)) < _TIE_SHARE] = 0
        np.maximum.accumulate(ts, out=ts)
        ts += self._bucket_ns(bucket)
        return ts

    def _events(self, bucket: int) -> Bucket:
        return Bucket(
            rng=self._rng(bucket, 2),
            n=int(self._counts[bucket]),
            bid_from=int(self._mid_ticks[bucket]),
            bid_to=int(self._mid_ticks[bucket + 1]),
            spread_ticks=self._spread_ticks,
            pairs=int(self._pairs[bucket]),
            depth=(int(self._depth[bucket, 0]), int(self._depth[bucket, 1])),
            cleared=bool(self._cleared[bucket]),
        )

    def _records(
        self, schema: str, bucket: int, ts_recv: NDArray[np.int64], instrument_id: int, part: slice
    ) -> NDArray[np.void]:
        events = self._events(bucket)
        n = len(ts_recv)
        rng = self._rng(bucket, 3)
        latency = 8_000 + rng.exponential(6_000, n).astype(np.int64)
        flags = np.full(n, _FLAG_LAST, np.uint64)
        flags[:-1][ts_recv[1:] == ts_recv[:-1]] = 0  # LAST marks the end of what arrived together
        words = RECORD_BYTES[schema] // 8
        columns = np.empty((words, n), np.uint64)
        header = RECORD_BYTES[schema] // 4 | SCHEMA_RTYPE[schema] << 8
        columns[0] = header | self.key.publisher_id << 16 | instrument_id << 32
        columns[1] = ts_recv - latency
        columns[2] = events.price_nano.view(np.uint64)
        columns[3] = events.size | events.action << _U64(32) | events.side_code << _U64(40)
        columns[3] |= flags << _U64(48) | events.level.astype(np.uint64) << _U64(56)
        columns[4] = ts_recv
        columns[5] = latency.astype(np.uint64)
        columns[5] |= (int(self._first_sequence[bucket]) + np.arange(n)).astype(np.uint64) << _U64(32)
        events.fill_levels(columns[6:])
        kept = columns[:, part]
        if schema == "mbp-1":
            kept = kept[:, events.level[part] == 0]
        out = np.empty((kept.shape[1], words), np.uint64)
        for first in range(0, len(out), 1024):  # small pieces stay in the cache while they are turned round
            out[first : first + 1024] = kept[:, first : first + 1024].T
        return out.reshape(-1).view(RECORD_DTYPE[schema])
