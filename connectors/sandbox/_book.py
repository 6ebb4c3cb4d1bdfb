"""What happens in one bucket of an invented day: the events, and the book after each of them, as whole arrays.

The price moves, adds and cancels of a bucket are drawn at once; the sizes at every price follow by one pass in order of
(price, record). Nothing here knows of time, instruments or files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from connectors.sandbox._dbn import UNDEF_PRICE

if TYPE_CHECKING:
    from numpy.typing import NDArray

TICK_NANO_USD: Final = 10_000_000  # 0.01 USD in the wire's 1e-9 units
LEVELS: Final = 10
MOVE_STRIDE: Final = 16  # at least so many records between two moves of a best price

_TRADE_SHARE: Final = 0.03
_MODIFY_SHARE: Final = 0.15
_BID, _ASK = 0, 1
_U64 = np.uint64

# Where a record lands: four in ten at the best level, then falling.
_LEVEL_LUT: Final = np.repeat(np.arange(LEVELS), (102, 46, 30, 20, 15, 12, 10, 8, 7, 6)).astype(np.int64)
# Displayed sizes: mostly round lots, some odd lots, a few large ones.
_SIZE_LUT: Final = np.concatenate(
    [np.repeat(np.arange(1, 13) * 100, 60), np.arange(1, 200), np.arange(1, 106) * 500]
).astype(np.uint32)


class Bucket:
    """What happens in one bucket: for each of its records the level touched and the book after it.

    Attributes:
        level: level touched, 0 the best, int64.
        action, side_code: ASCII codes as uint64, ready to be shifted into the record.
        price_nano: price of the event in 1e-9 USD, int64.
        size: size of the event, uint64.
    """

    def __init__(
        self,
        *,
        rng: np.random.Generator,
        n: int,
        bid_from: int,
        bid_to: int,
        spread_ticks: int,
        pairs: int,
        depth: tuple[int, int],
        cleared: bool,
    ) -> None:
        self._n = n
        self._visible: list[NDArray[np.int64] | int] = list(depth)
        ask_from = bid_from + spread_ticks
        side = rng.integers(0, 2, n)
        level = np.minimum(_LEVEL_LUT[rng.integers(0, len(_LEVEL_LUT), n)], min(depth) - 1)
        trade = rng.random(n) < _TRADE_SHARE
        d_best = np.zeros((2, n), np.int64)
        moved = self._place_moves(rng, d_best, side, pairs, bid_to - bid_from)
        trade[moved] = False
        level[moved] = 0
        rebuilt = self._place_clear(depth, side, level, trade) if cleared else slice(0, 0)
        level[trade] = 0
        best = np.cumsum(d_best, axis=1)
        best[_BID] += bid_from
        best[_ASK] += ask_from
        self._best = best

        # The absolute price a record touches: a widening move takes away the best price as it was before.
        widening = np.zeros(n, bool)
        widening[moved[0::2]] = True
        touched_bid = best[_BID] - level - np.where(widening, d_best[_BID], 0)
        touched_ask = best[_ASK] + level - np.where(widening, d_best[_ASK], 0)
        touched = np.where(side == _BID, touched_bid, touched_ask)

        new_size = _SIZE_LUT[rng.integers(0, len(_SIZE_LUT), n)]
        modify = rng.random(n) < _MODIFY_SHARE
        old_size = self._build_ladder(touched, side, new_size, trade, (bid_from, ask_from))

        signed = new_size.astype(np.int64) - old_size
        action = np.where(signed > 0, ord("A"), ord("C"))
        size = np.abs(signed)
        modify |= signed == 0
        modify[moved] = False
        action[modify] = ord("M")
        size[modify] = new_size[modify]
        for rows, code, sizes in (
            (moved[0::2], "C", old_size),
            (moved[1::2], "A", new_size),
            (np.arange(n)[rebuilt][1:], "A", new_size),
        ):
            action[rows] = ord(code)
            size[rows] = sizes[rows]
        price = touched * TICK_NANO_USD
        # A trade names the aggressor's side, and the price of the other one.
        action[trade] = ord("T")
        price[trade] = np.where(side == _BID, best[_ASK], best[_BID])[trade] * TICK_NANO_USD
        size[trade] = np.minimum(new_size, 100)[trade]
        side_code = np.where(side == _BID, ord("B"), ord("A"))
        if cleared:
            at = rebuilt.start
            action[at], side_code[at], price[at], size[at], level[at] = ord("R"), ord("N"), UNDEF_PRICE, 0, 0
        self.level = level
        self.action = action.astype(np.uint64)
        self.side_code = side_code.astype(np.uint64)
        self.price_nano = price
        self.size = size.astype(np.uint64)

    @staticmethod
    def _place_moves(
        rng: np.random.Generator, d_best: NDArray[np.int64], side: NDArray[np.int64], pairs: int, drift: int
    ) -> NDArray[np.int64]:
        """Draw the moves of the best prices: pairs of one that widens the spread and one that narrows it.

        Ask up then bid up lifts the market by a tick, bid down then ask down lowers it, and one side away and back
        leaves it; together they add up to `drift`. Returns the records that move, in order.
        """
        n = len(side)
        if not pairs:
            return np.empty(0, np.int64)
        stride = n // (2 * pairs)
        at = np.arange(2 * pairs) * stride + rng.integers(0, stride, 2 * pairs)
        to_and_fro = (pairs - abs(drift)) // 4
        steps = np.zeros(pairs, np.int64)
        steps[: abs(drift) + to_and_fro] = np.sign(drift) or 1
        steps[abs(drift) + to_and_fro : abs(drift) + 2 * to_and_fro] = -(np.sign(drift) or 1)
        rng.shuffle(steps)
        still = rng.integers(0, 2, pairs)
        widens = np.where(steps == 0, still, np.where(steps > 0, _ASK, _BID))
        narrows = np.where(steps == 0, still, np.where(steps > 0, _BID, _ASK))
        side[at[0::2]], side[at[1::2]] = widens, narrows
        d_best[widens, at[0::2]] = np.where(widens == _ASK, 1, -1)
        d_best[narrows, at[1::2]] = np.where(narrows == _ASK, -1, 1)
        return at

    def _place_clear(
        self, depth: tuple[int, int], side: NDArray[np.int64], level: NDArray[np.int64], trade: NDArray[np.bool_]
    ) -> slice:
        """An R record in the first third, then one record per level: all bids, then all asks."""
        at = self._n // 3
        rows = slice(at, at + 1 + sum(depth))
        trade[rows] = False
        side[rows] = [_BID] + [_BID] * depth[0] + [_ASK] * depth[1]
        level[rows] = [0, *range(depth[0]), *range(depth[1])]
        bids, asks = np.full(self._n, depth[0]), np.full(self._n, depth[1])
        bids[rows] = np.minimum(np.arange(rows.stop - at), depth[0])
        asks[rows] = np.clip(np.arange(rows.stop - at) - depth[0], 0, depth[1])
        self._visible = [bids, asks]
        return rows

    def _build_ladder(
        self,
        touched: NDArray[np.int64],
        side: NDArray[np.int64],
        new_size: NDArray[np.uint32],
        trade: NDArray[np.bool_],
        first_best: tuple[int, int],
    ) -> NDArray[np.int64]:
        """The size at every absolute price after every record, as one flat array; returns the sizes before.

        Row r of the ladder is a price of one side; along it the sizes change only where a record touched that price,
        so the whole ladder is one `np.repeat` of the changes in order of (price, record).
        """
        n = self._n
        best = self._best
        low = (
            min(int(best[_BID].min()), first_best[_BID]) - LEVELS,
            min(int(best[_ASK].min()), first_best[_ASK]),
        )
        high = (
            max(int(best[_BID].max()), first_best[_BID]),
            max(int(best[_ASK].max()), first_best[_ASK]) + LEVELS,
        )
        rows = max(high[_BID] - low[_BID], high[_ASK] - low[_ASK]) + 1
        self._row0 = (low[_BID], low[_ASK] - rows)
        key = touched - np.where(side == _BID, self._row0[_BID], self._row0[_ASK])
        changes = np.flatnonzero(~trade)
        order = changes[np.argsort(key[changes].astype(np.uint16), kind="stable")]
        key = key[order]
        prices = np.arange(2 * rows) + np.repeat(self._row0, rows)
        usual = _SIZE_LUT[(prices * 2_654_435_761 + np.repeat([0, 7_919], rows)) % len(_SIZE_LUT)]

        row_at = np.arange(2 * rows) + np.searchsorted(key, np.arange(2 * rows))
        change_at = np.arange(len(order)) + key + 1
        starts = np.empty(2 * rows + len(order) + 1, np.int64)
        sizes = np.empty(2 * rows + len(order), np.uint32)
        starts[row_at], sizes[row_at] = np.arange(2 * rows) * n, usual
        starts[change_at], sizes[change_at] = key * n + order, new_size[order]
        starts[-1] = 2 * rows * n
        self._ladder = np.repeat(sizes, np.diff(starts))
        old_size = np.zeros(n, np.int64)
        old_size[order] = sizes[change_at - 1]
        return old_size

    def fill_levels(self, columns: NDArray[np.uint64]) -> None:
        """Write the book after each record into `columns`: per level bid price, ask price, sizes, order counts."""
        n = self._n
        record = np.arange(n)
        at = [(self._best[side] - self._row0[side]) * n + record for side in (_BID, _ASK)]
        nano = [self._best[side] * TICK_NANO_USD for side in (_BID, _ASK)]
        taken = np.empty(n, np.uint32)
        for level in range(len(columns) // 4):
            prices = columns[4 * level : 4 * level + 2].view(np.int64)
            sizes, counts = columns[4 * level + 2], columns[4 * level + 3]
            halves = sizes.view(np.uint32).reshape(n, 2)
            for side, away in ((_BID, -1), (_ASK, 1)):
                np.add(nano[side], away * level * TICK_NANO_USD, out=prices[side])
                np.take(self._ladder, at[side] + away * level * n, out=taken, mode="clip")
                halves[:, side] = taken
            # One order for each 64 shares, both sides at once.
            np.right_shift(sizes, _U64(6), out=counts)
            np.bitwise_and(counts, _U64(0x03FFFFFF_03FFFFFF), out=counts)
            np.add(counts, _U64(0x00000001_00000001), out=counts)
            for side in (_BID, _ASK):
                visible = self._visible[side]
                if isinstance(visible, int):
                    if visible > level:
                        continue
                    visible = np.full(n, visible)
                hidden = np.flatnonzero(visible <= level)
                prices[side][hidden] = UNDEF_PRICE
                halves[hidden, side] = 0
                counts.view(np.uint32).reshape(n, 2)[hidden, side] = 0
