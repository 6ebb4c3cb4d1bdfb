"""Settings: every key is read, from the right place, checked, and never tells the secret."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flows.errors import ConfigurationError
from flows.settings import Settings, load_settings

REPOSITORY = Path(__file__).resolve().parents[2]
SECRET = "db-settings-tests-577215664901532"

pytestmark = pytest.mark.usefixtures("clean_environment")

# key: (text, what it becomes, a text that cannot be used or None)
KEYS: dict[str, tuple[str, object, str | None]] = {
    "ML_BASE_PATH": ("/ml", "/ml", None),
    "ML_BACKUP_PATH": ("/backup", Path("/backup"), None),
    "DATA_PATH_OVERRIDE": ("/root-of-data", "/root-of-data", None),
    "CACHE_PATH": ("/cache", Path("/cache"), None),
    "LEVEL2_DIRNAME": ("L2", "L2", None),
    "WARRIOR_TRADES_FILENAME": ("mine.csv", "mine.csv", None),
    "SYMBOL_MAPPING_FILE": ("map.json", Path("map.json"), None),
    "DATABENTO_API_KEY": (SECRET, SECRET, None),
    "DATABENTO_ENABLE_BACKFILL": ("no", False, "maybe"),
    "DATABENTO_GATEWAY": ("https://host:1", "https://host:1", None),
    "DATABENTO_DATASET": ("nasdaq.itch", "NASDAQ.ITCH", "nasdaq"),
    "DATABENTO_SCHEMA": ("mbp-1", "mbp-1", "trades"),
    "DATABENTO_TZ": ("America/New_York", "America/New_York", "UTC"),
    "DATABENTO_MAX_COST_USD": ("1.5", 1.5, "-1"),
    "DATABENTO_TIMEOUT_S": ("7", 7, "0"),
    "DATABENTO_DEADLINE_S": ("7.5", 7.5, "inf"),
    "L2_BACKFILL_WINDOW_ET": ("9:30-10:00", "9:30-10:00", None),
    "L2_TRADING_WINDOW_ET": ("9:30-10:00", "9:30-10:00", None),
    "L2_ENFORCE_TRADING_WINDOW": ("OFF", False, "2"),
    "L2_SNAPSHOT_INTERVAL_MS": ("0", 0, "-1"),
    "L2_LEVELS": ("5", 5, "0"),
    "L2_MAX_WORKERS": ("8", 8, "0"),
    "L2_BACKFILL_CONCURRENCY": ("2", 2, "many"),
    "L2_TASK_BACKOFF_BASE_MS": ("10", 10, "-1"),
    "L2_TASK_BACKOFF_MAX_MS": ("20", 20, "1.5"),
    "L2_MAX_ROWS_PER_TASK": ("1000", 1000, "-1"),
    "L2_SKIP_WEEKENDS": ("0", False, "weekends"),
    "L2_KEEP_RAW": ("False", False, ""),
    "L2_MIN_FREE_GB": ("0.5", 0.5, "nan"),
    "L2_MAX_RUN_GB": ("1.5", 1.5, "a lot"),
    "L2_ROTATE_MINUTES": ("0.5", 0.5, "0"),
    "L2_FLUSH_SECONDS": ("2", 2.0, "0"),
    "L2_QUEUE_MESSAGES": ("5000", 5000, "10"),
    "L2_SILENCE_SECONDS": ("90", 90.0, "inf"),
    "IB_HOST": ("gateway", "gateway", None),
    "IB_PORT": ("4003", 4003, "65536"),
    "IB_LIVE_PORT": ("1", 1, "0"),
    "IB_PAPER_PORT": ("2", 2, "no port"),
    "IB_GATEWAY_LIVE_PORT": ("3", 3, "-1"),
    "IB_GATEWAY_PAPER_PORT": ("4", 4, "1.5"),
    "IB_CLIENT_ID": ("7", 7, "0"),
    "IB_PAPER_TRADING": ("no", False, "paper"),
    "IB_USE_TWS": ("yes", True, "tws"),
    "CONNECTION_TIMEOUT": ("2.5", 2.5, "0"),
    "IB_MAX_DEPTH_LINES": ("5", 5, "0"),
    "IB_EXCHANGE": (" island ", "ISLAND", "IS LAND"),
    "IB_LIBRARY": ("ib_async", "ib_async", "ibapi"),
    "BAR_LOOKBACK_DAYS_SEC_1": ("2", 2, "200"),
    "BAR_LOOKBACK_DAYS_MIN_1": ("9", 9, "-1"),
    "BAR_LOOKBACK_DAYS_HOUR_1": ("60", 60, "a month"),
    "BARS_WHAT_TO_SHOW": ("MIDPOINT", "MIDPOINT", "QUOTES"),
    "BARS_EXTENDED_HOURS": ("1", True, "extended"),
    "BARS_OLDEST_FIRST": ("yes", True, "oldest"),
    "BARS_TIMEOUT_S": ("90", 90.0, "0"),
    "BARS_PACE_ALL_SIZES": ("on", True, "all"),
    "FORCE_FAKE_IB": ("1", True, "sandbox"),
    "MAX_WORKERS": ("2", 2, "0"),
    "RETRY_ATTEMPTS": ("0", 0, "-1"),
    "TASK_RUNNER": ("dask", "dask", "ray"),
    "DASK_ADDRESS": ("tcp://scheduler:8786", "tcp://scheduler:8786", None),
    "ALERTS_BLOCK": ("slack-webhook/desk", "slack-webhook/desk", "desk"),
    "LOG_LEVEL": ("debug", "DEBUG", "CHATTY"),
}


def value_of(settings: Settings, key: str) -> object:
    value = getattr(settings, key.lower())
    return value.get_secret_value() if key == "DATABENTO_API_KEY" else value


def test_every_key_has_its_test():
    assert {name.upper() for name in Settings.model_fields} == set(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_read_from_the_environment_else_from_the_env_file_else_its_default(key, tmp_path, monkeypatch):
    text, expected, _ = KEYS[key]
    default = value_of(load_settings(), key)
    assert default != expected or key == "DATABENTO_TZ"

    Path(".env").write_text(f"{key}={text}\n")
    assert value_of(load_settings(), key) == expected

    Path(".env").write_text(f"{key}=~~~ never read, the environment wins ~~~\n")
    monkeypatch.setenv(key, text)
    assert value_of(load_settings(), key) == expected


@pytest.mark.parametrize("key", KEYS)
def test_an_empty_value_is_the_same_as_none(key, monkeypatch):
    text, expected, _ = KEYS[key]
    default = value_of(load_settings(), key)
    monkeypatch.setenv(key, "")
    assert value_of(load_settings(), key) == default
    Path(".env").write_text(f"{key}=\n")
    assert value_of(load_settings(), key) == default
    Path(".env").write_text(f"{key}={text}\n")
    assert value_of(load_settings(), key) == expected


@pytest.mark.parametrize("key", [key for key, (_, _, bad) in KEYS.items() if bad])
def test_a_value_that_cannot_be_used_names_its_key_and_shows_no_secret(key, monkeypatch):
    monkeypatch.setenv(key, KEYS[key][2])
    monkeypatch.setenv("DATABENTO_API_KEY", SECRET)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert key in str(caught.value)
    assert SECRET not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"


def test_all_bad_keys_are_named_at_once(monkeypatch):
    for key in ("L2_LEVELS", "LOG_LEVEL"):
        monkeypatch.setenv(key, KEYS[key][2])
    with pytest.raises(ConfigurationError, match=r"(?s)L2_LEVELS.*LOG_LEVEL"):
        load_settings()


@pytest.mark.parametrize("word", ["1", "true", "TRUE", "Yes", "on", " oN "])
def test_words_for_yes(word, monkeypatch):
    monkeypatch.setenv("L2_KEEP_RAW", word)
    assert load_settings().l2_keep_raw is True


@pytest.mark.parametrize("word", ["0", "false", "FALSE", "No", "off"])
def test_words_for_no(word, monkeypatch):
    monkeypatch.setenv("L2_KEEP_RAW", word)
    assert load_settings().l2_keep_raw is False


@pytest.mark.parametrize("word", ["2", "y", "n", "t", "ja", "00", "enabled"])
def test_other_words_are_neither(word, monkeypatch):
    monkeypatch.setenv("L2_KEEP_RAW", word)
    with pytest.raises(ConfigurationError, match="L2_KEEP_RAW"):
        load_settings()


def test_keys_of_the_other_repository_are_ignored(monkeypatch):
    Path(".env").write_text("TF_1_MODEL=large\nTF_1_PORT=not a port\nexport SOMETHING='quoted'\n# a comment\n")
    monkeypatch.setenv("L2_UNHEARD_OF", "1")
    assert load_settings() == load_settings(None)


def test_an_env_file_may_be_absent_but_must_be_readable():
    assert load_settings(Path("nowhere.env")).l2_levels == 10
    Path(".env").write_bytes(b"L2_LEVELS=\xff\xfe5\n")
    with pytest.raises(ConfigurationError, match=r"\.env"):
        load_settings()


def test_the_secret_shows_in_no_form_of_the_settings(monkeypatch):
    monkeypatch.setenv("DATABENTO_API_KEY", SECRET)
    settings = load_settings()
    assert settings.databento_api_key.get_secret_value() == SECRET
    assert SECRET not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


def test_the_deprecated_key_counts_only_where_the_new_one_is_silent(monkeypatch):
    assert load_settings().workers == 4
    monkeypatch.setenv("L2_BACKFILL_CONCURRENCY", "7")
    assert load_settings().workers == 7
    Path(".env").write_text("L2_MAX_WORKERS=3\n")
    assert load_settings().workers == 3
    monkeypatch.setenv("L2_MAX_WORKERS", "")
    Path(".env").unlink()
    assert load_settings().workers == 7


@pytest.mark.parametrize(
    ("env", "folder"),
    [
        ({}, "data/level2"),
        ({"DATA_PATH_OVERRIDE": "o", "ML_BASE_PATH": "b"}, "o/level2"),
        ({"ML_BASE_PATH": "b"}, "b/Level2"),
        ({"DATA_PATH_OVERRIDE": "", "ML_BASE_PATH": "b"}, "b/Level2"),
        ({"ML_BASE_PATH": "b", "LEVEL2_DIRNAME": "books"}, "b/books"),
        ({"DATA_PATH_OVERRIDE": "$PLACE/o"}, "there/o/level2"),
        ({"ML_BASE_PATH": "~/b"}, "b/Level2"),
    ],
    ids=str,
)
@pytest.mark.parametrize("from_file", [False, True], ids=["environment", "env file"])
def test_the_data_root_follows_override_base_default_and_nothing_is_created(
    env, folder, from_file, tmp_path, monkeypatch
):
    monkeypatch.setenv("PLACE", str(tmp_path / "there"))
    monkeypatch.setenv("HOME", str(tmp_path))
    if from_file:
        Path(".env").write_text("".join(f"{key}={value}\n" for key, value in env.items()))
    else:
        for key, value in env.items():
            monkeypatch.setenv(key, value)
    assert load_settings().data_root.level2_dir == tmp_path / folder
    assert {path.name for path in tmp_path.iterdir()} <= {".env"}


def test_paths_are_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PLACE", "somewhere")
    for key in ("CACHE_PATH", "ML_BACKUP_PATH", "SYMBOL_MAPPING_FILE"):
        monkeypatch.setenv(key, "~/$PLACE/x")
    settings = load_settings()
    for path in (settings.cache_path, settings.ml_backup_path, settings.symbol_mapping_file):
        assert path == tmp_path / "somewhere" / "x"


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("DATA_PATH_OVERRIDE", "$NOWHERE_AT_ALL/x"),
        ("LEVEL2_DIRNAME", "../x"),
        ("L2_BACKFILL_WINDOW_ET", "9-10"),
        ("L2_TRADING_WINDOW_ET", "11:30-12:00"),
    ],
)
def test_what_only_shows_when_it_is_used_names_its_key_too(key, text, monkeypatch):
    monkeypatch.setenv(key, text)
    settings = load_settings()
    with pytest.raises(ConfigurationError, match=key):
        _ = (settings.data_root, settings.window)


def test_the_window_is_the_intersection_unless_switched_off(monkeypatch):
    assert str(load_settings().window) == "08:30-11:00"
    monkeypatch.setenv("L2_ENFORCE_TRADING_WINDOW", "0")
    assert str(load_settings().window) == "08:00-11:30"


def test_the_page_of_keys_is_what_the_settings_say():
    done = subprocess.run(
        [sys.executable, REPOSITORY / "tools" / "environment_docs.py", "--check"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")
