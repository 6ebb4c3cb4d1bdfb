"""A plan against a second derivation by plain loops, over random files, ledger lines, footers and notes."""

import json
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import BAR_SCHEMA, DataRoot
from contracts.coverage import build_coverage, load_coverage
from contracts.sessions import ET, is_session, session_close_et
from contracts.v1.bars import BarsMetadata, bars_schema
from flows.bars_plan import BarsScope, make_plan, replan
from flows.bars_publish import remember

NS = 1_000_000_000
FIRST, LAST = date(2025, 11, 24), date(2025, 12, 2)
DAYS = [FIRST + timedelta(number) for number in range((LAST - FIRST).days + 1)]
# Long ranges and short ones are looked up in different ways.
ENDS = [*DAYS, *[FIRST - timedelta(120)] * 3]
FOLDERS = {"1 hour": "hour", "1 min": "minute", "1 sec": "second"}
SECONDS = {"1 hour": 3600, "1 min": 60, "1 sec": 1}
KINDS = [("TRADES", True), ("TRADES", False), ("MIDPOINT", True)]
CLOCKS = {
    "first": ["04:00:00", "05:00:00", "09:30:00", "09:30:01", "09:31:00", "10:30:00", "10:31:00", "12:00:00"],
    "last": ["12:00:00", "12:58:59", "12:59:00", "12:59:59", "15:00:00", "15:59:00", "15:59:59", "19:59:59"],
}


def ns_of(day, clock):
    return int(datetime.combine(day, time.fromisoformat(clock), ET).timestamp()) * NS


def kind_of(what, use_rth):
    return what + ("/regular" if use_rth else "/extended")


def write_file(path, size, symbol, day, first, last, footer):
    path.parent.mkdir(parents=True, exist_ok=True)
    clocks = sorted({first, last})
    texts = [
        f"{datetime.combine(day, time.fromisoformat(clock), ET).astimezone(UTC):%Y-%m-%dT%H:%M:%S}.000000000+00:00"
        for clock in clocks
    ]
    schema = BAR_SCHEMA
    if footer is not None:
        (what, use_rth), complete = footer
        schema = bars_schema(
            BarsMetadata(
                symbol=symbol,
                bar_size=size,
                source="ibkr",
                session_date=day,
                what_to_show=what,
                use_rth=use_rth,
                price_adjustment="raw",
                complete=complete,
                producer="x",
            )
        )
    count = len(texts)
    pq.write_table(pa.table([texts, *[[1.0] * count] * 5, [1] * count, [1.0] * count], schema=schema), path)


@st.composite
def roots(draw):
    """What there is of each day: a recipe that `build` follows."""
    days = {}
    for size in draw(st.sets(st.sampled_from(list(FOLDERS)), min_size=1)):
        for day in DAYS:
            if draw(st.integers(0, 3)) == 0:
                continue
            first, last = (draw(st.sampled_from(CLOCKS[end])) for end in ("first", "last"))
            days[size, day] = {
                "first": first,
                "last": last,
                "footer": draw(st.none() | st.tuples(st.sampled_from(KINDS), st.booleans())),
                "where": draw(st.sampled_from(["here"] * 4 + ["old root", "odd", "nowhere", "garbage"])),
                "is_listed": draw(st.integers(0, 4)) > 0,
                "has_times": draw(st.integers(0, 4)) > 0,
                "rows": draw(st.sampled_from([2, 2, 2, 0])),
                "whole": draw(st.sampled_from([None, 2, 2, 7])),
                "is_cut": draw(st.integers(0, 3)) == 0,
                "note": draw(st.none() | st.tuples(st.sampled_from(KINDS), st.sampled_from([-1, 86_399, 86_400]))),
            }
    kinds = draw(st.sets(st.sampled_from(KINDS), max_size=1))
    seen = draw(st.none() | st.just((date.min, date.max)) | st.tuples(*[st.sampled_from(DAYS)] * 2).map(sorted))
    return days, kinds, seen


def build(folder, recipe):
    days, kinds, seen = recipe
    root = DataRoot(folder / "data")
    root.path.mkdir()
    with root.bars_manifest.open("w") as ledger:
        for (size, day), what in days.items():
            place = Path("bars", FOLDERS[size], "AAPL", f"{day}.parquet")
            path = {
                "old root": folder / "before" / place,
                "odd": folder / "odd" / f"x{day}.parquet",
            }.get(what["where"], root.path / place)
            if what["where"] == "garbage":
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"PAR1 torn")
            elif what["where"] != "nowhere":
                write_file(path, size, "AAPL", day, what["first"], what["last"], what["footer"])
            if what["is_listed"]:
                times = {}
                if what["has_times"]:
                    ends = zip(("time_start", "time_end"), ("first", "last"), strict=True)
                    times = {key: f"{day}T{what[end]}-05:00" for key, end in ends}
                document = {
                    "schema_version": "bars_manifest.v1",
                    "written_at": "2025-12-30T20:05:01+00:00",
                    "vendor": "IBKR",
                    "file_format": "parquet",
                    "symbol": "AAPL",
                    "bar_size": size,
                    "path": str(path),
                    "filename": path.name,
                    "rows": what["rows"],
                    "columns": ["timestamp"],
                    **times,
                }
                ledger.write(json.dumps(document) + "\n")
    for size, folder_name in FOLDERS.items():
        noted = {day: what for (other, day), what in days.items() if other == size and is_session(day)}
        if not noted and not kinds:
            continue
        notes = {
            "kinds": [kind_of(*kind) for kind in kinds],
            "empty": {
                str(day): [kind_of(*what["note"][0]), whole_window(day, use_rth=True)[1] + what["note"][1] * NS]
                for day, what in noted.items()
                if what["note"] is not None
            },
            "errors": {},
            "whole": {
                kind: [
                    number
                    for day, what in sorted(noted.items())
                    if what["whole"] is not None and what["footer"] is not None and what["footer"][1]
                    # A damage that came after the note is seen after the claim only.
                    if what["where"] != "garbage"
                    if kind_of(*what["footer"][0]) == kind
                    for number in (int(f"{day:%Y%m%d}"), what["whole"])
                ]
                for kind in {kind_of(*what["footer"][0]) for what in noted.values() if what["footer"] is not None}
            },
            "cut": [str(day) for day, what in noted.items() if what["is_cut"]],
            "seen": seen and [str(day) for day in seen],
        }
        path = root.path / ".bars" / folder_name / "AAPL.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(notes))
    build_coverage(root)
    return root


def whole_window(day, *, use_rth):
    clocks = ("09:30", session_close_et(day).isoformat()) if use_rth else ("04:00", "20:00")
    return ns_of(day, clocks[0]), ns_of(day, clocks[1])


def footer_of(path):
    """First and last bar, kind and whether it is complete; None for what cannot be read."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException):
        return None
    first, last = (
        int(datetime.fromisoformat(table["timestamp"][row].as_py()[:19] + "+00:00").timestamp()) * NS for row in (0, -1)
    )
    metadata = table.schema.metadata or {}
    if b"what_to_show" not in metadata:
        return first, last, None, False
    kind = kind_of(metadata[b"what_to_show"].decode(), metadata[b"use_rth"] == b"true")
    return first, last, kind, metadata[b"complete"] == b"true"


def slow_group(root, size, scope, now_ns):
    """The verdict on every day: what it is, its window, and what is to be done with its file."""
    _, kinds = slow_days(root, size, scope, now_ns, frozenset())
    # One file of another kind that turns up puts all others in doubt.
    return slow_days(root, size, scope, now_ns, kinds)[0]


def slow_days(root, size, scope, now_ns, known):  # noqa: C901, PLR0912, PLR0915 - the rules once more, in one piece
    """The same, given the kinds of files that turned up; also those that turn up now."""
    document = json.loads(root.bars_coverage.read_text())
    listed_days = {
        day["date"]: day
        for entry in document["entries"]
        if (entry["symbol"], entry["bar_size"]) == ("AAPL", size)
        for day in entry["days"]
    }
    notes_path = root.path / ".bars" / FOLDERS[size] / "AAPL.json"
    nothing = {"kinds": [], "empty": {}, "whole": {}, "cut": [], "seen": None}
    notes = json.loads(notes_path.read_text()) if notes_path.exists() else nothing
    kind = kind_of(scope.what_to_show, scope.use_rth)
    serving = [f"{scope.what_to_show}/extended"] if scope.use_rth and size != "1 hour" else []
    bar = SECONDS[size] * NS
    today = datetime.fromtimestamp(now_ns // NS, ET).date()
    is_foreign = any(other not in (None, kind, *serving) for other in {*notes["kinds"], *known})
    first_seen, last_seen = notes["seen"] or ("9999", "0000")
    whole_notes = {
        str(numbers[place]): (other, numbers[place + 1])
        for other, numbers in notes["whole"].items()
        for place in range(0, len(numbers), 2)
    }
    verdicts, kinds = {}, set()
    first_day, last_day = scope.ranges[size]
    for number in range((last_day - first_day).days + 1):
        day = first_day + timedelta(number)
        if not is_session(day) or (scope.pairs is not None and ("AAPL", day) not in scope.pairs):
            continue
        start, whole_end = whole_window(day, use_rth=scope.use_rth)
        end = min(whole_end, now_ns - now_ns % bar)
        if start >= end:
            continue
        reachable = size != "1 sec" or day >= today - timedelta(180)
        if scope.force:
            verdicts[day] = ("forced" if reachable else "out_of_reach", start, end)
            continue
        place = root.path / "bars" / FOLDERS[size] / "AAPL" / f"{day}.parquet"
        listed = listed_days.get(str(day))
        if listed is not None and listed["rows"] == 0:
            listed = None
        is_own = listed is not None and listed["path"].endswith(f"/bars/{FOLDERS[size]}/AAPL/{day}.parquet")
        names_this = is_own and place.is_file()
        is_there = listed is not None and (names_this or Path(listed["path"]).is_file())
        ends = [
            int(datetime.fromisoformat(listed[key]).timestamp()) * NS if listed is not None and key in listed else None
            for key in ("time_start", "time_end")
        ]
        is_present = is_there and None not in ends and ends[0] <= start + bar and ends[1] >= end - bar
        is_present = is_present or (is_there and None in ends and not names_this)
        verdict = "present" if is_present else "partial" if is_there else "file_gone" if listed else "missing"
        begin, is_resumed, is_unlisted, other = start, False, False, None
        settled = whole_end + 300 * NS
        is_cut = settled <= now_ns and str(day) in notes["cut"]
        is_unseen = not first_seen <= str(day) <= last_seen
        is_doubtful = names_this and (is_foreign or is_cut or is_unseen)
        noted_kind, noted_rows = whole_notes.get(f"{day:%Y%m%d}", (None, None))
        if names_this and noted_rows == listed["rows"]:
            if noted_kind in (kind, *serving):
                verdict = "present"
            elif reachable:
                verdict, other = "other_kind", noted_kind
        elif place.is_file() and reachable and (not is_present or is_doubtful):
            file = footer_of(place)
            if names_this and file is not None:
                kinds.add(file[2])
            if file is None:
                verdict = "file_gone" if names_this else verdict
            else:
                reaches_start, reaches_end = file[0] <= start + bar, file[1] >= end - bar
                if file[2] is None:
                    whole = reaches_start and reaches_end
                elif file[2] == kind:
                    whole = file[3] or (reaches_end and now_ns < settled)
                else:
                    whole = file[3] or (reaches_start and reaches_end)
                if file[2] not in (None, kind) and not (whole and file[2] in serving):
                    verdict, other = "other_kind", file[2]
                else:
                    is_unlisted = not names_this
                    if whole and (names_this or file[2] is not None):
                        verdict = "present"
                    else:
                        verdict, is_resumed = ("missing" if whole else "partial"), True
                        is_at_edge = size == "1 sec" and day < today - timedelta(170)
                        follows = not whole and not is_at_edge and (reaches_start or file[2] is not None)
                        begin = file[1] if follows and start < file[1] < end else start
        if verdict in ("missing", "partial", "file_gone"):
            note = notes["empty"].get(str(day))
            if not place.is_file() and note and note[0] == kind and note[1] >= whole_end + 86_400 * NS:
                verdict = "known_empty"
            elif not reachable:
                verdict = "out_of_reach"
        verdicts[day] = (verdict, begin, end, is_resumed, is_unlisted, other)
    return verdicts, kinds


def assert_same(group, verdicts):
    found = [verdict[0] for verdict in verdicts.values()]
    for name in ("missing", "partial", "file_gone", "forced", "present", "known_empty", "out_of_reach", "other_kind"):
        assert group.count(name) == found.count(name), name
    fetched = ("missing", "partial", "file_gone", "forced")
    assert [(window.day, window.start_ns, window.end_ns) for window in group.windows] == [
        (day, verdict[1], verdict[2]) for day, verdict in verdicts.items() if verdict[0] in fetched
    ]
    detailed = {day: verdict for day, verdict in verdicts.items() if len(verdict) > 3}
    assert group.resumed == {day for day, verdict in detailed.items() if verdict[3]}
    assert group.unlisted == {day for day, verdict in detailed.items() if verdict[4]}
    assert group.other_kind == {day: verdict[5] for day, verdict in detailed.items() if verdict[5] is not None}


NOWS = [
    *[
        (FIRST + timedelta(days), clock)
        for days in (0, 4, 7)
        for clock in ("09:30:30", "11:07:13", "13:04:59", "16:05")
    ],
    (LAST, "23:59:59"),
    (LAST + timedelta(30), "12:00"),
    *[(FIRST + timedelta(days), "12:00") for days in (174, 184)],
    (LAST + timedelta(400), "12:00"),
]


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_a_plan_is_what_plain_loops_find(tmp_path_factory, data):
    root = build(tmp_path_factory.mktemp("plan"), data.draw(roots()))
    coverage = load_coverage(root.bars_coverage)
    pairs = st.none() | st.frozensets(st.tuples(st.sampled_from(["AAPL", "MSFT"]), st.sampled_from(DAYS)))
    for _ in range(3):
        what, use_rth = data.draw(st.sampled_from(KINDS))
        scope = BarsScope(
            ("AAPL",),
            {size: tuple(sorted(data.draw(st.tuples(*[st.sampled_from(ENDS)] * 2)))) for size in FOLDERS},
            what_to_show=what,
            use_rth=use_rth,
            force=data.draw(st.integers(0, 5)) == 0,
            pairs=data.draw(pairs),
        )
        day, clock = data.draw(st.sampled_from(NOWS))
        now_ns = ns_of(day, clock)
        plan = make_plan(root, scope, now_ns=now_ns, coverage=coverage)
        assert [(group.symbol, group.bar_size) for group in plan.groups] == [("AAPL", size) for size in FOLDERS]
        for group in plan.groups:
            assert_same(group, slow_group(root, group.bar_size, scope, now_ns))
            # While nothing has changed, the look after the claim finds the same to do.
            again = replan(root, scope, "AAPL", group.bar_size, now_ns=now_ns, planned=group)
            for name in ("windows", "resumed", "unlisted", "other_kind", "present", "known_empty", "out_of_reach"):
                assert getattr(again, name) == getattr(group, name), name
        # Nor does what is noted of files that were opened change a verdict.
        remember(root, plan)
        assert make_plan(root, scope, now_ns=now_ns, coverage=coverage) == plan
