"""The task list: what is clear is taken, bad rows are dropped and counted, unclear lists are refused."""

import io
import logging
import zipfile
from datetime import date, datetime, time, timedelta

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openpyxl.utils.datetime import CALENDAR_MAC_1904

from connectors.tasklist.warrior import (
    DATE_HEADERS,
    SYMBOL_HEADERS,
    TaskListError,
    find_list,
    parse_day,
    read_tasks,
    select,
)

D4, D5 = date(2025, 9, 4), date(2025, 9, 5)
BOTH = [("MSFT", D4), ("AAPL", D5)]


@pytest.fixture
def csv(tmp_path):
    def write(content, name="list.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def xlsx(tmp_path):
    def write(rows, name="list.xlsx", **options):
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(row)
        for cell, number_format in options.get("formats", {}).items():
            book.active[cell].number_format = number_format
        book.epoch = options.get("epoch", book.epoch)
        book.save(tmp_path / name)
        book.close()
        return tmp_path / name

    return write


TEXTS = {
    "plain": b"ticker,date\nAAPL,2025-09-05\nMSFT,2025-09-04\n",
    "no line end": b"ticker,date\nAAPL,2025-09-05\nMSFT,2025-09-04",
    "crlf": b"ticker,date\r\nAAPL,2025-09-05\r\nMSFT,2025-09-04\r\n",
    "old mac": b"ticker,date\rAAPL,2025-09-05\rMSFT,2025-09-04\r",
    "bom": b"\xef\xbb\xbfticker,date\nAAPL,2025-09-05\nMSFT,2025-09-04\n",
    "utf-16": "ticker,date\nAAPL,2025-09-05\nMSFT,2025-09-04\n".encode("utf-16"),
    "utf-16-be": b"\xfe\xff" + "ticker,date\nAAPL,2025-09-05\nMSFT,2025-09-04\n".encode("utf-16-be"),
    "semicolon": b"ticker;date;note\nAAPL;2025-09-05;1,5\nMSFT;2025-09-04;a,b,c\n",
    "tab": b"ticker\tdate\nAAPL\t2025-09-05\nMSFT\t2025-09-04\n",
    "sep line": b"sep=;\r\nticker;date\r\nAAPL;2025-09-05\r\nMSFT;2025-09-04\r\n",
    "quoted": b'"ticker","date","a note"\n"AAPL","2025-09-05","said ""go"",\nthen left"\nMSFT,2025-09-04,\n',
    "padded": b" Ticker , DATE \n aapl , 2025-09-05 \n msft,2025-09-04\n",
    "blank lines": b"\n,,\nticker,date\n\nAAPL,2025-09-05\n ,\nMSFT,2025-09-04\n\n",
    "other order": b"date,price,ticker\n2025-09-05,1.5,AAPL\n2025-09-04,2.5,MSFT\n",
    "us dates": b"ticker,date\nAAPL,9/5/2025\nMSFT,09-04-25\n",
    "duplicates": b"ticker,date\nAAPL,2025-09-05\nMSFT,2025-09-04\naapl,9/5/2025 9:31\n",
}


@pytest.mark.parametrize("name", TEXTS)
def test_the_same_list_is_read_from_every_kind_of_text(csv, name):
    found = read_tasks(csv(TEXTS[name]))
    assert found.tasks == BOTH
    assert found.dropped == []
    assert found.duplicates == (name == "duplicates")
    assert found.source.name == "list.csv"


def test_the_same_list_is_read_from_a_workbook(xlsx):
    stamp = datetime(2025, 9, 5, 9, 30)  # noqa: DTZ001 - Excel knows no zones
    rows = [[], [None, " Ticker", "DATE "], [], [1, "aapl", stamp], [2, "MSFT", "9/4/2025"]]
    found = read_tasks(xlsx(rows))
    assert (found.tasks, found.dropped) == (BOTH, [])


@pytest.mark.parametrize("ticker", ["NA", "TRUE", "NULL", "NAN", "INF", "N", "E"])
def test_tickers_that_look_like_values_survive(csv, xlsx, ticker):
    assert read_tasks(csv(f"ticker,date\n{ticker},2025-09-05\n")).tasks == [(ticker, D5)]
    assert read_tasks(xlsx([["ticker", "date"], [ticker, D5]])).tasks == [(ticker, D5)]


@pytest.mark.parametrize("value", [True, False])
def test_a_truth_value_in_a_workbook_is_the_ticker_it_was_typed_as(xlsx, value):
    assert read_tasks(xlsx([["ticker", "date"], [value, D5]])).tasks == [(str(value).upper(), D5)]


def test_symbols_become_canonical(csv):
    assert read_tasks(csv("ticker,date\nbrk.b,2025-09-05\nBRK/B,2025-09-05\nBRK B,2025-09-05\n")).tasks == [
        ("BRK-B", D5)
    ]


def test_tasks_are_sorted_by_day_then_symbol(csv):
    rows = "B,2025-09-05\nC,2025-09-04\nA,2025-09-05\nA,2025-09-04\n"
    assert read_tasks(csv("ticker,date\n" + rows)).tasks == [("A", D4), ("C", D4), ("A", D5), ("B", D5)]


def test_bad_rows_are_dropped_counted_and_sampled_in_the_log(csv, caplog):
    rows = [
        "AAPL,13/05/2025",
        "AAPL",
        "../x,2025-09-05",
        ",2025-09-05",
        "123,2025-09-05",
        "AAPL,soon",
        "MSFT,2025-09-05",
    ]
    with caplog.at_level(logging.WARNING):
        found = read_tasks(csv("ticker,date\n" + "\n".join(rows)))
    assert found.tasks == [("MSFT", D5)]
    assert [row.row_number for row in found.dropped] == [2, 3, 4, 5, 6, 7]
    assert [row.value for row in found.dropped] == ["'13/05/2025'", "None", "'../x'", "''", "'123'", "'soon'"]
    assert len(caplog.records) == 1
    assert "dropped 6 rows" in caplog.text
    assert "row 2: not a date" in caplog.text
    assert "row 7" not in caplog.text


def test_bad_cells_of_a_workbook_are_dropped_with_a_reason(xlsx):
    bad = [
        [5, D5],
        [5.0, D5],
        [D4, D5],
        ["AAPL", 45905],
        ["AAPL", time(9, 30)],
        ["AAPL", True],
        ["AAPL", None],
        [None, D5],
    ]
    found = read_tasks(xlsx([["ticker", "date"], *bad, ["AAPL", D5]]))
    assert found.tasks == [("AAPL", D5)]
    assert [(row.row_number, row.reason) for row in found.dropped] == [
        (2, "the symbol is a number"),
        (3, "the symbol is a number"),
        (4, "the symbol was turned into a date or time by Excel"),
        (5, "a number, not a date: format the column as a date"),
        (6, "not a date"),
        (7, "not a date"),
        (8, "no date"),
        (9, "no symbol"),
    ]


def test_a_number_is_a_date_only_where_the_cell_says_so(xlsx):
    rows = [["ticker", "date"], ["AAPL", 45905], ["MSFT", 45904], ["NVDA", 20250905]]
    found = read_tasks(xlsx(rows, formats={"B2": "m/d/yyyy", "B3": "yyyy-mm-dd"}))
    assert found.tasks == [*BOTH, ("NVDA", D5)]


def test_a_workbook_that_counts_from_1904_gives_the_same_days(xlsx):
    found = read_tasks(xlsx([["ticker", "date"], ["AAPL", D5], ["MSFT", D4]], epoch=CALENDAR_MAC_1904))
    assert found.tasks == BOTH


def test_only_the_first_sheet_is_read(tmp_path):
    book = openpyxl.Workbook()
    book.active.append(["ticker", "date"])
    book.active.append(["AAPL", D5])
    book.create_sheet("more").append(["ticker", "date"])
    book.save(tmp_path / "l.xlsx")
    book.close()
    assert read_tasks(tmp_path / "l.xlsx").tasks == [("AAPL", D5)]


def test_a_workbook_with_a_wrong_size_inside_is_read_whole(xlsx):
    """Some exporters write that the sheet is one cell."""
    path = xlsx([["ticker", "date"], ["AAPL", D5], ["MSFT", D4]])
    patched = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(patched, "w") as new:
        for item in old.infolist():
            data = old.read(item)
            if item.filename == "xl/worksheets/sheet1.xml":
                assert b'ref="A1:B3"' in data
                data = data.replace(b'ref="A1:B3"', b'ref="A1"')
            new.writestr(item, data)
    path.write_bytes(patched.getvalue())
    assert read_tasks(path).tasks == BOTH


@pytest.mark.parametrize("symbol_header", SYMBOL_HEADERS)
@pytest.mark.parametrize("date_header", DATE_HEADERS)
def test_every_named_header_is_taken(csv, symbol_header, date_header):
    content = f"{date_header.upper()},note, {symbol_header.title()} \n2025-09-05,x,AAPL\n"
    assert read_tasks(csv(content)).tasks == [("AAPL", D5)]


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("symbol,ticker,date,trade_date", "WRONG,AAPL,2025-09-05,2025-01-01"),
        ("ticker,symbol,trade_date,day", "WRONG,AAPL,2025-09-05,2025-01-01"),
        ("code,sym,day,exec_date", "WRONG,AAPL,2025-01-01,2025-09-05"),
    ],
    ids=["ticker and date win together", "else the first of each list", "not the first in the file"],
)
def test_of_several_columns_the_specified_one_is_taken(csv, header, row):
    assert read_tasks(csv(f"{header}\n{row}\n")).tasks == [("AAPL", D5)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,when\nAAPL,2025-09-05\n", "no symbol column .* and date column .*headers are 'name', 'when'"),
        ("ticker,when\nAAPL,2025-09-05\n", "no date column .*trade_date.*'ticker', 'when'"),
        ("tickers;date\nAAPL;2025-09-05\n", "no symbol column .*headers are 'tickers', 'date'"),
        ("AAPL,2025-09-05\nMSFT,2025-09-04\n", "headers are 'AAPL', '2025-09-05'"),
        ("ticker,date,Date \nAAPL,2025-09-05,2025-09-04\n", "2 columns headed 'date'"),
        ("ticker,TICKER,date\nAAPL,MSFT,2025-09-05\n", "2 columns headed 'ticker'"),
        ("ticker|date\nAAPL|2025-09-05\n", r"headers are 'ticker\|date'"),
        ("\n\n", "needs a header row"),
        ('ticker,date\nAAPL,"2025-09-05\nMSFT,2025-09-04\n', "correct the quotes"),
        ('ticker,date,n\nAAPL,2025-09-05,"x\nMSFT,2025-09-04,"y"\n', "correct the quotes"),
        (b"ticker,date\n\xc4PL,2025-09-05\n", "UTF-8 text"),
        ("ticker,date\n".encode("utf-16-le"), "NUL"),
        (b"", "0 bytes"),
        (b"PK\x03\x04rest", "rename it to .xlsx"),
        (b"\xd0\xcf\x11\xe0rest", "old .xls workbook or one with a password"),
    ],
)
def test_a_text_that_is_not_clear_is_refused_with_what_was_found(csv, content, message):
    with pytest.raises(TaskListError, match=message) as caught:
        read_tasks(csv(content))
    assert "list.csv" in str(caught.value)
    assert caught.value.source.name == "list.csv"


def test_the_headers_that_were_found_are_in_the_error(csv):
    with pytest.raises(TaskListError) as caught:
        read_tasks(csv("name;when\nAAPL;2025-09-05\n"))
    assert caught.value.headers == ("name", "when")


@pytest.mark.parametrize("name", ["list.xlsx", "list.xlsm", "LIST.XLSX"])
@pytest.mark.parametrize("content", [b"ticker,date\n", b"PK\x03\x04 cut off", b"\xd0\xcf\x11\xe0"])
def test_a_damaged_workbook_is_refused(csv, name, content):
    with pytest.raises(TaskListError, match="save it"):
        read_tasks(csv(content, name))


def test_a_workbook_cut_anywhere_is_refused(xlsx, csv):
    data = xlsx([["ticker", "date"], ["AAPL", D5]]).read_bytes()
    for size in range(4, len(data), len(data) // 15):
        with pytest.raises(TaskListError, match="damaged"):
            read_tasks(csv(data[:size], "cut.xlsx"))


def test_a_workbook_without_the_columns_is_refused(xlsx):
    with pytest.raises(TaskListError, match="headers are 'a', '1'"):
        read_tasks(xlsx([["a", 1], ["AAPL", D5]]))
    with pytest.raises(TaskListError, match="needs a header row"):
        read_tasks(xlsx([]))


@pytest.mark.parametrize("name", ["list.xls", "list.pdf", "list"])
def test_other_files_are_refused(csv, name):
    with pytest.raises(TaskListError, match=r"\.xlsx"):
        read_tasks(csv(b"ticker,date\n", name))


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(TaskListError, match="there is no task list"):
        read_tasks(tmp_path / "none.csv")
    with pytest.raises(TaskListError, match="is a folder"):
        read_tasks(tmp_path)
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    with pytest.raises(TaskListError, match="cannot read"):
        read_tasks(tmp_path / "loop.csv")


@pytest.mark.parametrize(
    "text",
    [
        "2025-09-05",
        "2025-9-5",
        "2025/09/05",
        "20250905",
        " 2025-09-05 ",
        "2025-09-05T09:30:00",
        "2025-09-05 09:30",
        "2025-09-05T23:30:00.123456Z",
        "2025-09-05 00:00:00-04:00",
        "9/5/2025",
        "09/05/2025",
        "09-05-2025",
        "9/5/25",
        "9/5/2025 9:31:07 AM",
    ],
)
def test_days_in_iso_and_us_order_are_parsed(text):
    assert parse_day(text) == D5


@pytest.mark.parametrize(
    "text",
    [
        "13/05/2025",
        "5.9.2025",
        "2025-13-05",
        "2025-02-29",
        "9/31/2025",
        "2025-09/05",
        "9/5-2025",
        "Sep 5, 2025",
        "9/5",
        "9/5/025",
        "45905",
        "2025-09-05x",
        "2025-09-05T",
        "\u0662\u0660\u0662\u0665-09-05",
        "",
    ],
)
def test_other_days_are_refused_not_guessed(text):
    with pytest.raises(ValueError, match=r"ISO|month|day"):
        parse_day(text)


@pytest.mark.parametrize(("text", "year"), [("1/2/00", 2000), ("1/2/68", 2068), ("1/2/69", 1969), ("1/2/99", 1999)])
def test_two_digit_years_follow_posix(text, year):
    assert parse_day(text) == date(year, 1, 2)


@given(day=st.dates(min_value=date(1000, 1, 1)))
def test_every_day_is_read_as_it_is_written(day):
    for text in (f"{day}", f"{day.month}/{day.day}/{day.year}", f"{day:%m-%d-%Y}", f"{day:%Y%m%d}"):
        assert parse_day(text) == day


def test_the_list_is_found_in_the_data_root_first(tmp_path):
    root, base = tmp_path / "root", tmp_path / "base"
    for folder in (root, base):
        folder.mkdir()
    (base / "List.csv").touch()
    assert find_list(root, base, "List.xlsx") == base / "List.csv"
    (base / "List.xlsx").touch()
    assert find_list(root, base, "List.xlsx") == base / "List.xlsx"
    (root / "List.csv").touch()
    assert find_list(root, base, "List.xlsx") == root / "List.csv"
    (root / "List.xlsx").touch()
    assert find_list(root, base, "List.xlsx") == root / "List.xlsx"
    assert find_list(root, None, "List.csv") == root / "List.csv"


def test_a_list_that_is_nowhere_is_an_error_that_says_where_it_was_looked_for(tmp_path):
    root, base = tmp_path / "root", tmp_path / "base"
    (root / "List.xlsx").mkdir(parents=True)
    with pytest.raises(TaskListError, match="WARRIOR_TRADES_FILENAME") as caught:
        find_list(root, base, "List.xlsx")
    assert caught.value.looked_at == (root / "List.xlsx", root / "List.csv", base / "List.xlsx", base / "List.csv")
    for path in caught.value.looked_at:
        assert str(path) in str(caught.value)


def test_a_name_with_a_folder_is_used_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("LISTS", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "l.csv").touch()
    for name in (str(tmp_path / "sub" / "l.csv"), "$LISTS/sub/l.csv", "~/sub/l.csv", "~/sub/l.xlsx"):
        assert find_list(tmp_path / "root", None, name) == tmp_path / "sub" / "l.csv"
    assert find_list(tmp_path / "root", None, "sub/l.csv").samefile(tmp_path / "sub" / "l.csv")
    with pytest.raises(TaskListError, match="NOWHERE"):
        find_list(tmp_path / "sub", None, "$NOWHERE/l.csv")


def test_an_empty_name_is_refused(tmp_path):
    with pytest.raises(TaskListError, match="set it to the name"):
        find_list(tmp_path, None, " ")


def tasks_on(*offsets):
    return [("AAPL", D5 + timedelta(days=offset)) for offset in offsets]


def test_without_a_choice_all_tasks_but_future_ones_are_taken(caplog):
    with caplog.at_level(logging.WARNING):
        assert select(tasks_on(0, -9, 1, 30, -1), today_et=D5) == tasks_on(-9, -1, 0)
    assert "2 tasks after today" in caplog.text


def test_since_counts_back_from_today_inclusive():
    assert select(tasks_on(-3, -2, -1, 0), since_days=2, today_et=D5) == tasks_on(-2, -1, 0)
    assert select(tasks_on(-1, 0), since_days=0, today_et=D5) == tasks_on(0)
    assert select(tasks_on(-1, 0), since_days=10**9, today_et=D5) == tasks_on(-1, 0)


def test_last_counts_distinct_days_not_tasks():
    tasks = [("A", D4), ("B", D5), ("C", D5), ("A", date(2025, 8, 1))]
    assert select(tasks, last=1, today_et=D5) == [("B", D5), ("C", D5)]
    assert select(tasks, last=2, today_et=D5) == [("A", D4), ("B", D5), ("C", D5)]
    assert len(select(tasks, last=99, today_et=D5)) == 4


def test_both_choices_combine_since_first():
    assert select(tasks_on(-9, -2, -1, 0, 5), since_days=3, last=2, today_et=D5) == tasks_on(-1, 0)
    assert select(tasks_on(-9), since_days=3, last=2, today_et=D5) == []


def test_a_choice_that_cannot_be_meant_is_refused():
    with pytest.raises(ValueError, match="since_days"):
        select([], since_days=-1, today_et=D5)
    with pytest.raises(ValueError, match="last"):
        select([], last=0, today_et=D5)


@given(
    tasks=st.lists(st.tuples(st.sampled_from(["A", "B"]), st.dates(date(2025, 1, 1), date(2025, 12, 31)))),
    since=st.none() | st.integers(0, 400),
    last=st.none() | st.integers(1, 9),
)
def test_a_choice_is_a_sorted_unique_part_without_future_days(tasks, since, last):
    chosen = select(tasks, since_days=since, last=last, today_et=D5)
    assert chosen == sorted(set(chosen), key=lambda task: (task[1], task[0]))
    assert set(chosen) <= {task for task in tasks if task[1] <= D5}
    assert last is None or len({day for _, day in chosen}) <= last
