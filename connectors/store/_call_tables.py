"""The tables of a call log and what is asked of them; private to `call_log`, which says where they are and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

LAYOUT: Final = 2
"""Of these tables; a file of another layout is made anew."""

_TABLES: Final = (
    """CREATE TABLE calls (name TEXT NOT NULL, key TEXT NOT NULL, cost INTEGER NOT NULL,
                           at_ns INTEGER NOT NULL, wall_ns INTEGER NOT NULL)""",
    "CREATE INDEX calls_by_time ON calls (name, key, at_ns)",
    # Waiting calls: what becomes free goes to the earlier ones first.
    """CREATE TABLE tickets (ticket TEXT NOT NULL, name TEXT NOT NULL, key TEXT NOT NULL, cost INTEGER NOT NULL,
                             since_ns INTEGER NOT NULL, until_ns INTEGER NOT NULL)""",
    """CREATE TABLE marks (name TEXT PRIMARY KEY, at_ns INTEGER NOT NULL, wall_ns INTEGER NOT NULL,
                           length_ns INTEGER NOT NULL, level INTEGER NOT NULL)""",
    # When a damaged log was made anew: at that time every window counts as full.
    "CREATE TABLE remade (at_ns INTEGER NOT NULL, wall_ns INTEGER NOT NULL)",
    "CREATE TABLE boot (id TEXT NOT NULL)",
)
_DATED: Final = ("calls", "marks", "remade")
_TICKET_GRACE_NS: Final = 10**9


class UnknownLayoutError(Exception):
    """A SQLite file of another layout than ours."""


class Counted(Protocol):
    """A window that a call counts in: at most `limit` in any `window_ns`, both ends included."""

    @property
    def name(self) -> str:
        """Of the window."""

    @property
    def key(self) -> str:
        """What is counted apart, such as an instrument; empty when all is one."""

    @property
    def cost(self) -> int:
        """How much this call counts."""

    @property
    def limit(self) -> int:
        """How much may be in the window."""

    @property
    def window_ns(self) -> int:
        """The window's length."""

    @property
    def only_while(self) -> str | None:
        """The call counts only while this mark holds."""

    @property
    def stopped_by(self) -> str | None:
        """The call, if it counts, waits while this mark holds."""


def prepare(base: sqlite3.Connection, boot_id: str, now_ns: int, wall_ns: int) -> None:
    """Make the tables in an empty file; after a boot, bring the rows onto this boot's clock.

    Raises:
        UnknownLayoutError: They are of another layout.
    """
    layout = base.execute("PRAGMA user_version").fetchone()[0]
    if layout == 0:
        for table in _TABLES:
            base.execute(table)
        base.execute("INSERT INTO boot VALUES (?)", (boot_id,))
        base.execute(f"PRAGMA user_version = {LAYOUT}")
    elif layout != LAYOUT:
        raise UnknownLayoutError(f"it has layout {layout}")
    elif base.execute("SELECT id FROM boot").fetchone() != (boot_id,):
        for table in _DATED:
            base.execute(
                f"UPDATE {table} SET at_ns = ? - max(0, ? - wall_ns)",  # noqa: S608 - our own tables
                (now_ns, wall_ns),
            )
        base.execute("DELETE FROM tickets")
        base.execute("UPDATE boot SET id = ?", (boot_id,))


def count_as_full(base: sqlite3.Connection, now_ns: int, wall_ns: int) -> None:
    """Let every window be full now."""
    base.execute("INSERT INTO remade VALUES (?, ?)", (now_ns, wall_ns))


def enter(
    base: sqlite3.Connection, uses: Sequence[Counted], ticket: str, since_ns: int, now_ns: int, wall_ns: int
) -> dict[str, int]:
    """Enter a call and return nothing, or return the nanoseconds to wait by what refuses it (`CallLog.enter`)."""
    marks = {
        name: left_ns
        for name, at_ns, length_ns in base.execute("SELECT name, at_ns, length_ns FROM marks")
        if (left_ns := _left_ns(at_ns, length_ns, now_ns)) > 0
    }
    # Who came first goes first; of the same moment, who has the lower ticket.
    ahead = [
        row[2:]
        for row in base.execute("SELECT since_ns, ticket, name, key, cost, until_ns FROM tickets")
        if row[:2] < (since_ns, ticket) and row[-1] >= now_ns
    ]
    remade_ns = [at_ns for (at_ns,) in base.execute("SELECT at_ns FROM remade")]
    counting, waits = [], {}
    for use in uses:
        if use.only_while is not None and use.only_while not in marks:
            continue
        counting.append(use)
        wait_ns = max(
            _window_wait_ns(base, use, ahead, now_ns),
            *(_left_ns(at_ns, use.window_ns + 1, now_ns) for at_ns in remade_ns),
            0,
        )
        if wait_ns:
            waits[use.name] = wait_ns
        if use.stopped_by is not None and use.stopped_by in marks:
            waits[use.stopped_by] = marks[use.stopped_by]
    if ticket:
        base.execute("DELETE FROM tickets WHERE ticket = ? OR until_ns < ?", (ticket, now_ns))
    if waits:
        longest_ns = max(waits.values())
        until_ns = now_ns + longest_ns + _TICKET_GRACE_NS
        if ticket:
            base.executemany(
                "INSERT INTO tickets VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (ticket, use.name, use.key, use.cost, since_ns, until_ns)
                    for use in counting
                    if waits.get(use.name) == longest_ns
                ],
            )
        return waits
    base.executemany(
        "INSERT INTO calls VALUES (?, ?, ?, ?, ?)",
        [(use.name, use.key, use.cost, now_ns, wall_ns) for use in counting],
    )
    base.executemany(
        "DELETE FROM calls WHERE name = ? AND at_ns < ?", [(use.name, now_ns - use.window_ns) for use in counting]
    )
    return waits


def withdraw(base: sqlite3.Connection, ticket: str) -> None:
    """Give up a waiting call's place."""
    base.execute("DELETE FROM tickets WHERE ticket = ?", (ticket,))


def mark(
    base: sqlite3.Connection, name: str, lengths_ns: Sequence[int], calm_ns: int, now_ns: int, wall_ns: int
) -> int:
    """Set a mark unless it holds, and return for how long it holds (`CallLog.mark`)."""
    left_ns = mark_left_ns(base, name, now_ns)
    if left_ns:
        return left_ns
    last = base.execute("SELECT at_ns + length_ns, level FROM marks WHERE name = ?", (name,)).fetchone()
    level = last[1] + 1 if last is not None and now_ns - last[0] <= calm_ns else 0
    length_ns = lengths_ns[min(level, len(lengths_ns) - 1)]
    base.execute("REPLACE INTO marks VALUES (?, ?, ?, ?, ?)", (name, now_ns, wall_ns, length_ns, level))
    return length_ns


def mark_left_ns(base: sqlite3.Connection, name: str, now_ns: int) -> int:
    """Return for how long a mark holds; never longer than it was meant to, whatever the clocks did."""
    found = base.execute("SELECT at_ns, length_ns FROM marks WHERE name = ?", (name,)).fetchone()
    return 0 if found is None else max(0, _left_ns(found[0], found[1], now_ns))


def in_window(base: sqlite3.Connection, use: Counted, now_ns: int) -> list[tuple[int, int]]:
    """Return what counts in a window, as (nanoseconds until it counts no more, cost), first to leave first."""
    rows = base.execute("SELECT at_ns, cost FROM calls WHERE name = ? AND key = ?", (use.name, use.key)).fetchall()
    rows += [(at_ns, use.limit) for (at_ns,) in base.execute("SELECT at_ns FROM remade")]
    leaves = ((_left_ns(at_ns, use.window_ns + 1, now_ns), cost) for at_ns, cost in rows)
    return sorted((left_ns, cost) for left_ns, cost in leaves if left_ns > 0)


def _left_ns(at_ns: int, length_ns: int, now_ns: int) -> int:
    # Nothing happened later than now, whatever the clocks did: it would last for ever.
    return min(at_ns, now_ns) + length_ns - now_ns


def _window_wait_ns(
    base: sqlite3.Connection, use: Counted, ahead: Sequence[tuple[str, str, int, int]], now_ns: int
) -> int:
    """How long until the call fits into the window, beside what earlier waiting calls will take."""
    rows = base.execute(
        "SELECT at_ns, cost FROM calls WHERE name = ? AND key = ? AND at_ns >= ? ORDER BY at_ns",
        (use.name, use.key, now_ns - use.window_ns),
    ).fetchall()
    if rows and rows[-1][0] > now_ns:
        # No clock of this boot was ever later than now: such a row would block for ever.
        base.execute("UPDATE calls SET at_ns = ? WHERE at_ns > ?", (now_ns, now_ns))
    reserved = [(cost, until_ns) for name, key, cost, until_ns in ahead if (name, key) == (use.name, use.key)]
    excess = sum(cost for _, cost in rows) + sum(cost for cost, _ in reserved) + use.cost - use.limit
    wait_ns = 0
    for at_ns, cost in rows:
        if excess <= 0:
            return wait_ns
        excess -= cost
        wait_ns = _left_ns(at_ns, use.window_ns + 1, now_ns)
    if excess > 0 and reserved:
        # Only waiting calls are in the way: until they have gone or given up.
        wait_ns = max(until_ns for _, until_ns in reserved) + 1 - now_ns
    return wait_ns
