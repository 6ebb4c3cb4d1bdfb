"""Batches: every day is done once, whoever works on it and whoever dies; limits hold over processes."""

from __future__ import annotations

import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from queue import SimpleQueue

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.store.checkpoints import Checkpoint, Checkpoints
from flows.backfill_attempts import Attempts, manifest_line
from flows.backfill_batches import Batch, BatchLost, Cutter, run_batches, slice_of, work_through
from flows.backfill_day import DayOutcome
from flows.backfill_job import assemble
from flows.backfill_remote import RemoteShares, RemoteWorker
from flows.backfill_request import DayTask
from flows.backfill_run import run_backfill
from flows.errors import ConfigurationError, FlowError

SATURDAY = date(2025, 9, 6)


def days(count: int) -> list[DayTask]:
    return [DayTask("AAPL", date(2000, 1, 1) + timedelta(days=number)) for number in range(count)]


class TestCutting:
    @settings(max_examples=50, deadline=None)
    @given(count=st.integers(0, 3_000), workers=st.integers(1, 64), data=st.data())
    def test_every_day_is_given_out_once_whatever_comes_back(self, count, workers, data):
        cutter = Cutter(days(count), workers)
        done: list[int] = []
        paces = st.sampled_from([1e-6, 0.01, 0.5, 30.0])
        for number in itertools.count():
            batch = cutter.next()
            if batch is None:
                break
            assert batch.number == number
            worked = data.draw(st.integers(1, len(batch.items))) if number < 20 else len(batch.items)
            done += [position for position, _ in batch.items[:worked]]
            cutter.give_back(batch.items[worked:])
            cutter.learn(worked, worked * (data.draw(paces) if number < 20 else 0.5))
        assert sorted(done) == list(range(count))

    def test_a_small_run_has_one_day_in_each_and_a_large_one_batches(self):
        small, large = Cutter(days(200), 4), Cutter(days(201), 4)
        assert {len(small.next().items) for _ in range(200)} == {1}
        assert small.next() is None
        first = large.next()
        assert (len(first.items), first.is_single) == (8, False)
        assert first.label == "AAPL 2000-01-01 to AAPL 2000-01-08 (8 days)"

    @pytest.mark.parametrize(("count", "day_s"), [(10_000, 0.001), (10_000, 0.5), (10_000, 5.0), (100_000, 2.0)])
    def test_a_run_makes_fewer_than_2_000_batches_of_enough_work(self, count, day_s):
        cutter = Cutter(days(count), 4)
        worked_s: list[float] = []
        while (batch := cutter.next()) is not None:
            worked = min(len(batch.items), max(1, -(-int(batch.slice_s * 1_000) // int(day_s * 1_000))))
            cutter.give_back(batch.items[worked:])
            cutter.learn(worked, worked * day_s)
            worked_s.append(worked * day_s)
        assert cutter.made < 2_000
        assert sum(worked_s) / len(worked_s) >= (2.0 if day_s >= 0.5 else 0.2)

    def test_slices_grow(self):
        assert [slice_of(made) for made in (0, 499, 500, 1_000, 1_500, 1_550)] == [3.0, 3.0, 6.0, 12.0, 24.0, 48.0]

    def test_a_slice_that_is_over_hands_the_rest_back_after_one_day_at_least(self):
        items = list(enumerate(days(5)))
        result = work_through(Batch(0, items, 0.0), lambda _, day: DayOutcome(day, "SKIP"))
        assert [position for position, _ in result.outcomes] == [0]
        assert result.rest == tuple(items[1:])

    def test_what_failed_is_named_and_what_was_left_is_counted(self):
        def attempt(position, day):
            return [DayOutcome(day, "WRITE"), DayOutcome(day, "ERROR", reason="stream_cut"), None][position]

        text = work_through(Batch(0, list(enumerate(days(3))), 9.0), attempt).describe()
        assert text == ("2 days: ERROR 1, WRITE 1; 1 days left for the next run; failed: AAPL 2000-01-02 (stream_cut)")


class Handle:
    """A future of a pool as a batch under way."""

    def __init__(self, future):
        self._future = future

    def add_done_callback(self, fn):
        self._future.add_done_callback(lambda _: fn(self))

    def result(self):
        result = self._future.result()
        return pickle.loads(result) if isinstance(result, bytes) else result  # noqa: S301 - our own bytes


def with_remote_rules(attempts, tasks, workers):
    """The executor of a run whose workers are elsewhere; these are threads that get and give copies, as there."""
    worker, shares = RemoteWorker(attempts.context, attempts.checkpoints.run_id), RemoteShares(attempts, workers)

    def work(parcel):
        return pickle.dumps(worker(pickle.loads(parcel)))  # noqa: S301 - our own bytes

    with ThreadPoolExecutor(max_workers=workers) as pool:
        yield from run_batches(
            attempts,
            tasks,
            workers,
            submit=lambda batch: Handle(pool.submit(work, pickle.dumps(batch))),
            finished=SimpleQueue(),
            shares=shares,
        )


def run(place, *symbols, execute=with_remote_rules, **parameters):
    job = assemble(symbols=list(symbols), **({"start": place.day} | parameters))
    return run_backfill(job.context, job.tasks, job.options, execute=execute)


class TestOtherProcesses:
    def test_they_write_what_one_process_would_and_nothing_of_the_key_travels(self, place):
        place.vendor.add_fault("zero-rows:symbol=QUIET")
        job = assemble(symbols=["AAPL"], start=place.day)
        assert place.key.encode() not in pickle.dumps(RemoteWorker(job.context, "run"))

        result = run(place, "AAPL", "QUIET", "NOSUCH", "MSFT", max_workers=2)

        assert [(line.symbol, line.status) for line in place.lines] == [
            ("AAPL", "WRITE"),
            ("QUIET", "EMPTY"),
            ("NOSUCH", "ERROR"),
            ("MSFT", "WRITE"),
        ]
        assert result.summary["cost_usd"] == pytest.approx(sum(line.cost_usd for line in place.lines), abs=1e-9)
        place.check()

    def test_a_worker_of_another_data_root_is_refused(self, place, tmp_path):
        job = assemble(symbols=["AAPL"], start=place.day)
        worker = RemoteWorker(job.context, "run")
        place.set(DATA_PATH_OVERRIDE=tmp_path / "elsewhere")
        with pytest.raises(ConfigurationError, match="elsewhere"):
            worker(Batch(0, [(0, DayTask("AAPL", place.day))], 3.0))

    @pytest.mark.parametrize("workers", [1, 3])
    def test_the_ceiling_holds_over_all_and_is_used_up(self, place, tmp_path, workers):
        symbols = ("MSFT", "NVDA", "TSLA", "AMD", "INTC")
        run(place, *symbols)
        price = {line.symbol: line.cost_usd for line in place.lines}
        place.root = tmp_path / "second"
        place.set(DATA_PATH_OVERRIDE=place.root, CACHE_PATH=tmp_path / "second-cache")
        place.forget_requests()
        ceiling = sum(price.values()) * 0.6

        result = run(place, *symbols, max_workers=workers, max_cost_usd=ceiling)

        spent = sum(price[line.symbol] for line in place.lines if line.status == "WRITE")
        (refused,) = [line for line in place.lines if line.status == "ERROR"]
        assert refused.reason == "cost_ceiling"
        assert spent <= ceiling < spent + price[refused.symbol]
        assert result.summary["cost_usd"] == pytest.approx(spent, abs=1e-9)
        assert place.billed_usd == pytest.approx(spent, abs=1e-9)
        assert len(place.lines) + len(result.summary["remaining"]) == len(symbols)
        assert "raise the ceiling" in result.stopped

    def test_a_refused_key_ends_the_run_and_closed_days_are_done(self, place):
        place.vendor.add_fault("unauthorized")
        result = run(place, "AAPL", "MSFT", end=SATURDAY, start=SATURDAY - timedelta(days=1), max_workers=1)
        assert "check DATABENTO_API_KEY" in result.stopped
        assert [line.reason for line in place.lines] == ["unauthorized"]
        assert result.summary["remaining"] == [["MSFT", "2025-09-05"]]

    def test_a_budget_that_is_used_up_ends_the_run(self, place):
        place.set(L2_MAX_RUN_GB=0.000_02)
        result = run(place, "AAPL", "MSFT", "NVDA", max_workers=1)
        assert "L2_MAX_RUN_GB" in result.stopped
        assert len(place.lines) + len(result.summary["remaining"]) == 3
        assert 1 <= len(place.lines) < 3


class DyingWorker:
    """Dies at a day, after it has done those before it, as often as it is asked."""

    def __init__(self, attempts, worker, symbol, times):
        self._attempts, self._worker, self._symbol, self._times = attempts, worker, symbol, times

    def __call__(self, batch):
        for number, (position, day) in enumerate(batch.items):
            if day.symbol == self._symbol and self._times > 0:
                self._times -= 1
                assert self._attempts.checkpoints.begin(batch.number)
                for done_position, done in batch.items[:number]:
                    line = manifest_line(DayOutcome(done, "EMPTY"), self._attempts.checkpoints.run_id)
                    self._attempts.checkpoints.add(Checkpoint(done_position, line))
                raise BatchLost(f"{position}")
        return self._worker(batch)


@pytest.mark.parametrize(("times", "status"), [(1, "EMPTY"), (2, "ERROR")])
def test_a_batch_whose_worker_died_is_given_out_again_and_what_it_did_is_not_done_twice(place, times, status):
    place.set(L2_SKIP_WEEKENDS=0)
    symbols = [f"S{number}" for number in range(150)]
    asked: list[int] = []

    def execute(attempts, tasks, workers):
        remote = RemoteWorker(attempts.context, attempts.checkpoints.run_id)
        worker = DyingWorker(attempts, remote, "S3", times)

        def work(batch):
            result = worker(batch)
            asked.extend(position for position, _ in result.outcomes)
            return result

        with ThreadPoolExecutor(max_workers=workers) as pool:
            yield from run_batches(
                attempts,
                tasks,
                workers,
                submit=lambda batch: Handle(pool.submit(work, batch)),
                finished=SimpleQueue(),
                shares=RemoteShares(attempts, workers),
            )

    result = run(place, *symbols, start=SATURDAY, end=SATURDAY + timedelta(days=1), execute=execute, max_workers=2)

    assert result.summary["total_tasks"] == 300
    assert [line.symbol for line in place.lines] == symbols * 2
    assert len(asked) == len(set(asked))
    assert not {0, 1, 2} & set(asked)
    assert place.lines[3].status == status
    assert (place.lines[3].reason == "worker_died") == (status == "ERROR")


def test_a_batch_that_was_begun_is_lost_to_whoever_gets_it_again(place):
    job = assemble(symbols=["AAPL"], start=SATURDAY)
    worker = RemoteWorker(job.context, "run")
    batch = Batch(4, [(0, DayTask("AAPL", SATURDAY))], 3.0)
    assert worker(batch).outcomes[0][1].status == "EMPTY"
    with pytest.raises(BatchLost):
        worker(batch)


def test_a_lost_batch_counts_as_having_spent_its_share(place):
    job = assemble(symbols=["AAPL", "MSFT"], start=place.day, max_cost_usd=8.0)
    checkpoints = Checkpoints(job.context.root, "run")
    shares = RemoteShares(Attempts(job.context, checkpoints), workers=4)
    batches = [Batch(number, [(number, task)], 3.0) for number, task in enumerate(job.tasks)]
    assert all(shares.grant(batch, number) for number, batch in enumerate(batches))

    checkpoints.begin(0)
    shares.settle(batches[0], shares.lost(batches[0]))

    assert job.context.ceiling.spent_usd == pytest.approx(2.0)
    assert batches[1].grant.spent_usd == pytest.approx(6.0)


def test_a_batch_that_never_began_cost_nothing_and_is_no_death(place):
    job = assemble(symbols=["AAPL"], start=place.day, max_cost_usd=8.0)
    shares = RemoteShares(Attempts(job.context, Checkpoints(job.context.root, "run")), workers=1)
    for number in range(5):
        batch = Batch(number, [(0, job.tasks[0])], 3.0)
        assert shares.grant(batch, 0)
        lost = shares.lost(batch)
        assert (list(shares.settle(batch, lost)), lost.suspect) == ([(0, job.tasks[0])], None)
    assert job.context.ceiling.spent_usd == 0
    for number in range(5, 10):
        shares.lost(Batch(number, [(0, job.tasks[0])], 3.0))
    with pytest.raises(FlowError, match="did not begin"):
        shares.lost(Batch(10, [(0, job.tasks[0])], 3.0))


def test_once_the_vendor_refuses_everything_the_rest_is_one_batch():
    cutter = Cutter([DayTask("AAPL", SATURDAY + timedelta(days=number)) for number in range(150)], 4)
    assert cutter.next().is_single
    rest = cutter.next(is_refused=True)
    assert (len(rest.items), rest.is_single) == (149, False)
    assert cutter.next(is_refused=True) is None
