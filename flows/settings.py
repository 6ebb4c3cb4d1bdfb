"""Every environment key this project reads, with type, default and meaning; docs/ENVIRONMENT.md is generated from it.

The process environment beats `.env`, which beats the defaults; empty values count as unset and unknown keys are
ignored, for both repositories share one `.env`. Reading settings creates nothing.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.errors import ContractError
from contracts.layout import DataRoot, resolve_data_root
from contracts.sessions import Window, effective_window
from flows.errors import ConfigurationError

_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def _switch(value: Any) -> Any:
    """Only the documented words: a typing slip must not become False."""
    if isinstance(value, str):
        word = value.strip().lower()
        if word not in _WORDS:
            raise ValueError("use one of 1/0, true/false, yes/no, on/off")
        return _WORDS[word]
    return value


def _expand(path: Path) -> Path:
    return Path(os.path.expandvars(path)).expanduser()


def _level(value: str) -> str:
    level = value.strip().upper()
    if level not in {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}:
        raise ValueError("use one of DEBUG, INFO, WARNING, ERROR, CRITICAL")
    return level


def _dataset(value: str) -> str:
    code = value.strip().upper()
    if not re.fullmatch(r"[A-Z0-9]+\.[A-Z0-9]+", code):
        raise ValueError("use a dataset code such as XNAS.ITCH")
    return code


def _exchange(value: str) -> str:
    code = value.strip().upper()
    if not re.fullmatch(r"[A-Z][A-Z0-9.]{0,15}", code):
        raise ValueError("use SMART or the broker's name of an exchange, such as ISLAND")
    return code


def _block(value: str) -> str:
    text = value.strip()
    if not re.fullmatch(r"[a-z0-9-]+/[a-z0-9-]+", text):
        raise ValueError("use TYPE/NAME of a Prefect block, such as slack-webhook/desk")
    return text


Switch = Annotated[bool, BeforeValidator(_switch)]
ExpandedPath = Annotated[Path, AfterValidator(_expand)]


class Settings(BaseSettings):
    """What a run is told by its environment. Use `load_settings`, which reports problems by key."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True)

    ml_base_path: str = Field("~/Machine Learning", description="Root ML data directory; the data root when set.")
    ml_backup_path: ExpandedPath | None = Field(
        None, description="Mirror of manifests and summaries; unset or unwritable never fails a run."
    )
    data_path_override: str = Field("./data", description="Data root; comes before ML_BASE_PATH when set.")
    cache_path: ExpandedPath = Field(Path("cache"), description="Vendor files and request-rate logs.")
    level2_dirname: str = Field(
        "Level2", description="Level-2 folder below the data root; unset: `Level2` under ML_BASE_PATH, else `level2`."
    )
    warrior_trades_filename: str = Field(
        "WarriorTrading_Trades.xlsx",
        description="Task list, `.xlsx` or `.csv`; under the data root, else under ML_BASE_PATH.",
    )
    symbol_mapping_file: ExpandedPath = Field(
        Path("config/symbol_mapping.json"), description="Vendor names of symbols; may be absent at its default place."
    )
    databento_api_key: SecretStr = Field(SecretStr(""), description="Secret. Never printed, logged or put in an error.")
    databento_enable_backfill: Switch | None = Field(
        None, description="`0` switches the vendor off with a clear error; unset: on when there is a key."
    )
    databento_gateway: str = Field("", description="Base URL of a Databento-compatible server; empty: the vendor's.")
    databento_dataset: Annotated[str, AfterValidator(_dataset)] = Field(
        "XNAS.ITCH", description="Dataset; NASDAQ.ITCH and NYSE.PILLAR are understood as XNAS.ITCH and XNYS.PILLAR."
    )
    databento_schema: Literal["mbp-10", "mbp-1"] = Field("mbp-10", description="mbp-1 is padded to L2_LEVELS.")
    databento_tz: Literal["America/New_York"] = Field(
        "America/New_York", description="Time zone of windows and trading days; the contract knows no other."
    )
    databento_max_cost_usd: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="Spend ceiling of one run, retries included."
    )
    databento_timeout_s: int = Field(
        30, ge=1, le=3600, description="Longest wait to connect, for a first byte and between two reads."
    )
    databento_deadline_s: float = Field(
        0, ge=0, allow_inf_nan=False, description="Wall-clock limit of one download; 0: from its record count."
    )
    l2_backfill_window_et: str = Field("08:00-11:30", description="Window of a backfill, ET.")
    l2_trading_window_et: str = Field("08:30-11:00", description="Trading window, ET.")
    l2_enforce_trading_window: Switch = Field(True, description="Intersect the two windows.")
    l2_snapshot_interval_ms: int = Field(
        100, ge=0, le=3_600_000, description="Grid distance of snapshots; 0: one row per event."
    )
    l2_levels: int = Field(10, ge=1, le=50, description="Levels per side.")
    l2_max_workers: int = Field(4, ge=1, le=64, description="Concurrent tasks.")
    l2_backfill_concurrency: int | None = Field(None, ge=1, le=64, description="Deprecated fallback of L2_MAX_WORKERS.")
    l2_task_backoff_base_ms: int = Field(250, ge=0, le=600_000, description="First backoff, before jitter.")
    l2_task_backoff_max_ms: int = Field(
        2_000, ge=0, le=600_000, description="Longest backoff; a vendor's Retry-After wins."
    )
    l2_max_rows_per_task: int = Field(0, ge=0, description="Most records or rows of one task; 0: off. A hit is ERROR.")
    l2_skip_weekends: Switch = Field(True, description="Leave weekends out of date ranges.")
    l2_keep_raw: Switch = Field(True, description="Keep the vendor's files in CACHE_PATH: nothing is paid for twice.")
    l2_min_free_gb: float = Field(2, ge=0, allow_inf_nan=False, description="Free space below which a run pauses.")
    l2_max_run_gb: float = Field(0, ge=0, allow_inf_nan=False, description="Most a run may write; 0: off.")
    l2_rotate_minutes: float = Field(
        15, gt=0, le=1440, allow_inf_nan=False, description="Live capture: length of a segment, from ET midnight on."
    )
    l2_flush_seconds: float = Field(
        1, ge=0.05, le=60, allow_inf_nan=False, description="Live capture: the most that a kill can lose."
    )
    l2_queue_messages: int = Field(
        200_000, ge=1_000, le=10_000_000, description="Live capture: messages that may wait to be journaled."
    )
    l2_silence_seconds: float = Field(
        60,
        gt=0,
        allow_inf_nan=False,
        description="Live capture: a book that is silent for so long in regular hours is subscribed anew.",
    )
    ib_host: str = Field("127.0.0.1", description="Host of TWS or IB Gateway.")
    ib_port: int | None = Field(None, ge=1, le=65535, description="Its API port; unset: by mode, see below.")
    ib_live_port: int = Field(7496, ge=1, le=65535, description="TWS, live account.")
    ib_paper_port: int = Field(7497, ge=1, le=65535, description="TWS, paper account.")
    ib_gateway_live_port: int = Field(4001, ge=1, le=65535, description="IB Gateway, live account.")
    ib_gateway_paper_port: int = Field(4002, ge=1, le=65535, description="IB Gateway, paper account.")
    ib_client_id: int = Field(
        2011, ge=1, le=2**31 - 100, description="API client id; when it is in use, the next ones are tried."
    )
    ib_paper_trading: Switch = Field(True, description="The gateway is that of a paper account; decides the port.")
    ib_use_tws: Switch = Field(False, description="TWS instead of IB Gateway; decides the port.")
    connection_timeout: float = Field(
        30, gt=0, le=3600, allow_inf_nan=False, description="Seconds that a connection to the gateway may take."
    )
    ib_max_depth_lines: int = Field(
        3, ge=1, le=60, description="Simultaneous depth subscriptions that the account may have."
    )
    ib_exchange: Annotated[str, AfterValidator(_exchange)] = Field(
        "SMART", description="Whose book is captured: SMART, or one exchange such as ISLAND or ARCA."
    )
    ib_library: Literal["ib_insync", "ib_async"] | None = Field(
        None, description="The gateway's client; unset: the one that is installed, ib_insync before ib_async."
    )
    bar_lookback_days_sec_1: int = Field(
        5, ge=0, le=180, description="Bars without dates: calendar days back from today for `1 sec`."
    )
    bar_lookback_days_min_1: int = Field(5, ge=0, le=3_660, description="Likewise for `1 min`.")
    bar_lookback_days_hour_1: int = Field(30, ge=0, le=3_660, description="Likewise for `1 hour`.")
    bars_what_to_show: Literal["TRADES", "MIDPOINT", "BID", "ASK", "BID_ASK"] = Field(
        "TRADES", description="The broker's kind of bars; a data root holds one kind per symbol, bar size and day."
    )
    bars_extended_hours: Switch = Field(
        False, description="Bars of 04:00-20:00 ET instead of regular hours, 09:30 to the close."
    )
    bars_oldest_first: Switch = Field(False, description="Download the oldest days first; default: the newest.")
    bars_timeout_s: float = Field(
        60, gt=0, le=3600, allow_inf_nan=False, description="Longest wait for the answer to one request of bars."
    )
    bars_pace_all_sizes: Switch = Field(
        False,
        description="Count requests of `1 min` and `1 hour` among the 60 in ten minutes too, which the broker demands "
        "for bars of 30 seconds and less only.",
    )
    force_fake_ib: Switch = Field(False, description="`1` uses the bundled sandbox gateway, not the host and port.")
    max_workers: int = Field(
        4, ge=1, le=32, description="Requests for bars that may be open at once: for seconds, and for the others, each."
    )
    retry_attempts: int = Field(3, ge=0, le=20, description="Attempts after the first for retryable vendor errors.")
    task_runner: Literal["threads", "dask"] = Field(
        "threads", description="Where the tasks of a backfill run as a Prefect flow: threads of its process, or Dask."
    )
    dask_address: str = Field(
        "", description="With TASK_RUNNER=dask: a scheduler such as tcp://host:8786; empty: a cluster of its own."
    )
    alerts_block: Annotated[str, AfterValidator(_block)] | None = Field(
        None,
        description="Prefect notification block, such as `slack-webhook/desk`, that `trading-data deploy` lets "
        "automations write to; unset: they are seen in Prefect's event feed only.",
    )
    log_level: Annotated[str, AfterValidator(_level)] = Field("INFO", description="Threshold of the log on stderr.")

    @property
    def workers(self) -> int:
        """L2_MAX_WORKERS, or its deprecated fallback when only that one is set."""
        if "l2_max_workers" not in self.model_fields_set and self.l2_backfill_concurrency is not None:
            return self.l2_backfill_concurrency
        return self.l2_max_workers

    @property
    def data_root(self) -> DataRoot:
        """Where this run writes.

        Raises:
            ConfigurationError: the root or the Level-2 folder cannot be used.
        """
        given = {key: str(getattr(self, key.lower())) for key in _ROOT_KEYS if key.lower() in self.model_fields_set}
        others = {key: value for key, value in os.environ.items() if key not in _ROOT_KEYS}
        try:
            return resolve_data_root(others | given)
        except ContractError as error:
            raise ConfigurationError(str(error)) from error

    @property
    def window(self) -> Window:
        """The effective window.

        Raises:
            ConfigurationError: a window cannot be parsed, or the intersection is empty.
        """
        try:
            return effective_window(
                self.l2_backfill_window_et, self.l2_trading_window_et, self.l2_enforce_trading_window
            )
        except ContractError as error:
            raise ConfigurationError(f"L2_BACKFILL_WINDOW_ET, L2_TRADING_WINDOW_ET: {error}") from error


_ROOT_KEYS = ("DATA_PATH_OVERRIDE", "ML_BASE_PATH", "LEVEL2_DIRNAME")


def load_settings(env_file: Path | None = Path(".env"), **overrides: Any) -> Settings:
    """Settings of this process.

    Args:
        env_file: file of `KEY=value` lines; None for none. It need not exist.
        **overrides: field values that beat the environment.

    Raises:
        ConfigurationError: names each key that cannot be used and what it takes; never shows a secret.
    """
    try:
        return Settings(_env_file=env_file, **overrides)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']).upper()}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_url=False, include_input=False)
        )
        raise ConfigurationError(f"settings cannot be used: {problems} [correct the environment or .env]") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{env_file} cannot be read: {error}") from None
