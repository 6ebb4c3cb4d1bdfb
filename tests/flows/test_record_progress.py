"""What a person sees of a running capture: rates, one line, a table; and nothing of it can hold the capture up."""

from __future__ import annotations

import logging
import threading

import pytest
from rich.console import Console

from flows import capture_progress
from flows.capture_progress import CaptureStatus, Rates, SymbolStatus, describe, on_stderr, rows, totals


def a_status(messages: int = 120, gap: str | None = None, **values: object) -> CaptureStatus:
    aapl = SymbolStatus("AAPL", "live", messages, 230.01, 230.02, gap, 2)
    msft = SymbolStatus("MSFT", "queued", 0, None, None, "connect", 0)
    given = {"waiting": False, "queue": 7, "lag_ms": 12.4, "elapsed_s": 90.0, "left_s": 3_510.0, "reconnects": 1}
    return CaptureStatus((aapl, msft), **(given | values))


def test_a_rate_is_that_of_the_last_seconds():
    now = [100.0]
    rates = Rates(lambda: now[0])
    seen = []
    for second in range(12):
        now[0] = 100.0 + second
        # 10 a second at first, 50 a second later.
        count = 10 * second if second < 6 else 50 * (second - 5) + 50
        seen.append(rates.of(SymbolStatus("AAPL", "live", count, None, None, None, 0)))
    assert seen[0] == 0
    assert seen[5] == pytest.approx(10)
    assert seen[11] == pytest.approx(50)


def test_one_line_says_all_of_a_capture():
    rates = Rates(iter([0.0, 0.0, 2.0, 2.0]).__next__)
    describe(a_status(20), rates)
    assert describe(a_status(120), rates) == (
        "AAPL live 120 (50/s) 230.01/230.02; MSFT queued 0 (0/s) -/-, gap connect; "
        "queue 7, lag 12 ms, 0:01:30 done, 0:58:30 left, 1 reconnects"
    )
    assert describe(a_status(waiting=True), Rates()).startswith("not begun; ")


def test_a_table_has_a_row_per_symbol_and_the_totals_are_apart():
    assert [(row["symbol"], row["bid"], row["open gap"]) for row in rows(a_status(gap="halt_316"), Rates())] == [
        ("AAPL", "230.01", "halt_316"),
        ("MSFT", "-", "connect"),
    ]
    assert totals(a_status()) == "0:01:30 done, 0:58:30 left; 120 messages; queue 7, lag 12 ms; 1 reconnects"
    assert a_status().share == pytest.approx(0.025)
    assert a_status(elapsed_s=0.0, left_s=0.0).share == 1


def test_without_a_terminal_there_are_log_lines_and_a_failing_look_is_only_told(caplog):
    looks = []
    enough = threading.Event()

    def status() -> CaptureStatus:
        looks.append(1)
        if len(looks) == 1:
            raise RuntimeError("the books changed meanwhile")
        enough.set()
        return a_status()

    with caplog.at_level(logging.INFO), on_stderr(status, line_every_s=0.01):
        assert enough.wait(10)
    assert "cannot be shown now, the capture goes on: the books changed meanwhile" in caplog.text
    assert "AAPL live 120" in caplog.text


def test_on_a_terminal_there_is_a_table_and_a_failing_look_is_only_told(monkeypatch, tmp_path):
    looks = []
    enough = threading.Event()

    def status() -> CaptureStatus:
        looks.append(1)
        if len(looks) > 2:
            enough.set()
            raise RuntimeError("the books changed meanwhile")
        return a_status()

    with (tmp_path / "terminal").open("w+") as terminal:
        monkeypatch.setattr(
            capture_progress, "Console", lambda **_: Console(file=terminal, force_terminal=True, width=120)
        )
        with on_stderr(status):
            assert enough.wait(10)
        terminal.seek(0)
        drawn = terminal.read()
    assert all(word in drawn for word in ("AAPL", "230.01", "per second", "0:58:30 left", "the capture goes on"))
