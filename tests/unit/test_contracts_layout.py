"""Where files lie: the data root and the grammar of names."""

from datetime import date, datetime, time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import (
    BarsName,
    DataRoot,
    InvalidDataRoot,
    InvalidName,
    InvalidSymbol,
    Level2Name,
    check_data_root,
    level2_candidates,
    parse_bars_path,
    parse_level2_name,
    resolve_data_root,
)

DAY = date(2025, 9, 4)
DAYS = st.dates()
STAMPS = st.builds(time, st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
TAGS = st.from_regex(r"[a-z][a-z0-9]{0,20}", fullmatch=True)
NAMES = st.builds(Level2Name, st.sampled_from(["snapshots", "messages", "session_stats"]), DAYS, STAMPS) | st.builds(
    Level2Name, st.sampled_from(["snapshots", "events"]), DAYS, st.none(), TAGS
)
SYMBOLS = st.from_regex(r"[A-Z][A-Z0-9-]{4,14}", fullmatch=True)


@settings(max_examples=40)
@given(NAMES)
def test_a_built_level2_name_parses_to_itself(name):
    assert parse_level2_name(name.filename) == name


@settings(max_examples=40)
@given(st.builds(BarsName, st.sampled_from(["1 hour", "1 min", "1 sec"]), SYMBOLS, DAYS))
def test_a_built_bars_path_parses_to_itself(name):
    assert parse_bars_path(Path("/data") / name.relative_path) == name


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        ("2025-09-04_snapshots_093000.parquet", Level2Name("snapshots", DAY, time(9, 30))),
        ("2025-09-04_messages_093000.json", Level2Name("messages", DAY, time(9, 30))),
        ("session_stats_20250904_093000.json", Level2Name("session_stats", DAY, time(9, 30))),
        ("2025-09-04_snapshots_databento.parquet", Level2Name("snapshots", DAY, source_tag="databento")),
        ("2025-09-04_events_databento.parquet", Level2Name("events", DAY, source_tag="databento")),
    ],
)
def test_every_name_of_the_contract_is_built_and_parsed(filename, expected):
    assert parse_level2_name(filename) == expected
    assert expected.filename == filename


@pytest.mark.parametrize(
    "filename",
    [
        "",
        "2025-09-04.parquet",
        "2025-02-30_snapshots_databento.parquet",
        "2025-09-04_snapshots_240000.parquet",
        "2025-09-04_snapshots_09300.parquet",
        "2025-09-04_snapshots_Databento.parquet",
        "2025-09-04_snapshots_1x.parquet",
        "2025-09-04_snapshots_.parquet",
        "2025-09-04_events_093000.parquet",
        "2025-09-04_messages_databento.json",
        "2025-09-04_snapshots_databento.parquet.tmp",
        ".2025-09-04_snapshots_databento.parquet.1-2.3.tmp",
        "AAPL/2025-09-04_snapshots_databento.parquet",
        "2025-09-04_snapshots_databento.parquet\n",
        "\uff12\uff10\uff12\uff15-09-04_snapshots_databento.parquet",
        "session_stats_2025-09-04_093000.json",
    ],
)
def test_other_names_are_refused(filename):
    with pytest.raises(InvalidName) as caught:
        parse_level2_name(filename)
    assert caught.value.name == filename


@pytest.mark.parametrize(
    "build",
    [
        lambda: Level2Name("snapshots", DAY),
        lambda: Level2Name("snapshots", DAY, time(9), "databento"),
        lambda: Level2Name("events", DAY, time(9)),
        lambda: Level2Name("messages", DAY, source_tag="ibkr"),
        lambda: Level2Name("snapshots", datetime(2025, 9, 4, 9), source_tag="databento"),  # noqa: DTZ001 - on purpose
        lambda: Level2Name("snapshots", DAY, time(9, 0, 0, 5)),
        lambda: Level2Name("snapshots", DAY, source_tag="../x"),
        lambda: Level2Name("books", DAY, source_tag="databento"),
        lambda: BarsName("5 mins", "AAPL", DAY),
    ],
)
def test_parts_that_make_no_name_are_refused(build):
    with pytest.raises(InvalidName):
        build()


@pytest.mark.parametrize(
    "path",
    [
        "bars/day/AAPL/2025-09-15.parquet",
        "bars/minute/aapl/2025-09-15.parquet",
        "bars/minute/BRK.B/2025-09-15.parquet",
        "bars/minute/2025-09-15.parquet",
        "bars/minute/AAPL/2025-09-31.parquet",
        "bars/minute/AAPL/20250915.parquet",
        "bars/minute/CON/2025-09-15.parquet",
    ],
)
def test_other_bars_paths_are_refused(path):
    with pytest.raises(InvalidName):
        parse_bars_path(Path(path))


def test_every_path_lies_where_the_contract_says():
    root = DataRoot(Path("/data"))
    assert root.snapshots_path("brk.b", DAY) == Path("/data/level2/BRK-B/2025-09-04_snapshots_databento.parquet")
    assert root.events_path("AAPL", DAY, "other") == Path("/data/level2/AAPL/2025-09-04_events_other.parquet")
    assert root.bars_path("1 min", "AAPL", DAY) == Path("/data/bars/minute/AAPL/2025-09-04.parquet")
    files = [root.backfill_manifest, root.backfill_summary, root.bars_manifest, root.bars_coverage, root.gaps]
    assert [path.name for path in files] == [
        "backfill_l2_manifest.jsonl",
        "backfill_l2_summary.json",
        "bars_download_manifest.jsonl",
        "bars_coverage_manifest.json",
        "l2_gaps.jsonl",
    ]
    assert {path.parent for path in files} == {Path("/data")}


@pytest.mark.parametrize("symbol", ["../x", "/etc", "", "\uff21\uff21\uff30\uff2c", "CON"])
def test_no_path_is_built_from_what_is_no_symbol(symbol):
    with pytest.raises(InvalidSymbol):
        DataRoot(Path("/data")).snapshots_path(symbol, DAY)


def test_the_root_is_the_override_else_the_base_else_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    override, base = str(tmp_path / "override"), str(tmp_path / "base")
    both = {"DATA_PATH_OVERRIDE": override, "ML_BASE_PATH": base}
    assert resolve_data_root(both) == DataRoot(Path(override), "level2")
    assert resolve_data_root({**both, "DATA_PATH_OVERRIDE": ""}) == DataRoot(Path(base), "Level2")
    assert resolve_data_root({"ML_BASE_PATH": base, "LEVEL2_DIRNAME": "l2"}) == DataRoot(Path(base), "l2")
    assert resolve_data_root({"DATA_PATH_OVERRIDE": "", "ML_BASE_PATH": ""}) == DataRoot(tmp_path / "data", "level2")
    assert list(tmp_path.iterdir()) == []


def test_home_and_variables_are_expanded_from_the_given_environment():
    env = {"HOME": "/home/x", "BASE": "/mnt", "DIR": "~/y", "SUB": "1"}
    assert resolve_data_root({**env, "DATA_PATH_OVERRIDE": "~/d"}).path == Path("/home/x/d")
    assert resolve_data_root({**env, "DATA_PATH_OVERRIDE": "$BASE/sub${SUB}"}).path == Path("/mnt/sub1")
    assert resolve_data_root({**env, "DATA_PATH_OVERRIDE": "$DIR"}).path == Path("/home/x/y")
    assert resolve_data_root({**env, "ML_BASE_PATH": "~/Machine Learning"}).path == Path("/home/x/Machine Learning")


def test_an_unknown_variable_is_named_instead_of_becoming_a_folder():
    with pytest.raises(InvalidDataRoot, match="NOWHERE") as caught:
        resolve_data_root({"DATA_PATH_OVERRIDE": "$NOWHERE/d"})
    assert caught.value.key == "DATA_PATH_OVERRIDE"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "/abs", " level2", "c:", "a\nb"])
def test_the_level2_folder_is_one_plain_name(name, tmp_path):
    with pytest.raises(InvalidDataRoot, match="LEVEL2_DIRNAME"):
        resolve_data_root({"DATA_PATH_OVERRIDE": str(tmp_path), "LEVEL2_DIRNAME": name})


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_root_that_is_a_file_or_lies_below_one_is_refused(tmp_path, below):
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(InvalidDataRoot, match="not a folder"):
        resolve_data_root({"DATA_PATH_OVERRIDE": str(file / below)})


def test_a_root_whose_level2_folder_is_a_file_is_refused(tmp_path):
    (tmp_path / "level2").write_text("x")
    with pytest.raises(InvalidDataRoot, match="not a folder"):
        check_data_root(DataRoot(tmp_path))


def test_a_root_that_is_a_broken_link_is_refused(tmp_path):
    (tmp_path / "root").symlink_to(tmp_path / "gone")
    with pytest.raises(InvalidDataRoot, match="leads nowhere"):
        check_data_root(DataRoot(tmp_path / "root"))


def test_a_root_with_a_nul_character_is_refused():
    with pytest.raises(InvalidDataRoot, match="NUL"):
        resolve_data_root({"DATA_PATH_OVERRIDE": "a\0b"})


def test_a_root_that_is_not_there_yet_is_fine_and_not_made(tmp_path):
    root = resolve_data_root({"DATA_PATH_OVERRIDE": str(tmp_path / "a" / "b")})
    check_data_root(root)
    assert not (tmp_path / "a").exists()


def test_readers_look_in_every_style_the_writers_place_first(tmp_path):
    env = {"DATA_PATH_OVERRIDE": str(tmp_path / "o"), "ML_BASE_PATH": str(tmp_path / "b"), "LEVEL2_DIRNAME": "L2"}
    found = [str(path.relative_to(tmp_path)) for path in level2_candidates(env)]
    assert found == ["o/L2", "o/level2", "o/Level2", "b/L2", "b/Level2", "b/level2"]
    assert tmp_path / found[0] == resolve_data_root(env).level2_dir


def test_readers_see_one_folder_once_whatever_leads_to_it(tmp_path):
    (tmp_path / "o" / "level2").mkdir(parents=True)
    (tmp_path / "o" / "Level2").symlink_to(tmp_path / "o" / "level2")
    (tmp_path / "b").symlink_to(tmp_path / "o")
    env = {"DATA_PATH_OVERRIDE": str(tmp_path / "o"), "ML_BASE_PATH": str(tmp_path / "b")}
    assert level2_candidates(env) == [tmp_path / "o" / "level2"]
