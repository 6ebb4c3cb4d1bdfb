"""What `trading-data record-depth` and `trading-data recover` do after their options are read.

Sandbox, signals, log, run, lines of stdout, exit code; the capture itself is in `record_run`.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from connectors.ibkr.errors import IbkrError
from connectors.store.errors import StoreError
from flows.capture_progress import on_stderr
from flows.capture_recover import recover as recover_root
from flows.errors import CaptureFailed, ConfigurationError
from flows.record_job import assemble, check_ready
from flows.record_result import RecordResult
from flows.record_run import record
from flows.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OK, FAILED, USAGE = 0, 1, 2
_API_TIMEOUT_S: Final = 5.0

_OF_THE_FLOW: Final = ("symbols", "minutes", "levels", "interval_ms", "window", "exchange")
_OF_THE_ENVIRONMENT: Final = {
    "host": "IB_HOST",
    "port": "IB_PORT",
    "client_id": "IB_CLIENT_ID",
    "paper": "IB_PAPER_TRADING",
    "output": "DATA_PATH_OVERRIDE",
}

logger = logging.getLogger(__name__)


class _CurrentStderr:
    """Whatever stderr is at the moment: a live table takes its place for a while."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def run(parameters: dict[str, Any], *, sandbox: bool, as_flow: bool | None) -> int:
    """Capture and print one line per symbol.

    Args:
        parameters: those of the flow `record-depth`, and `host, port, client_id, paper, output`.
        sandbox: start the bundled gateway for this run.
        as_flow: run as a Prefect flow; None decides by PREFECT_API_URL.

    Returns:
        The exit code.
    """
    try:
        with _environment(parameters, sandbox=sandbox):
            _log_to_stderr(load_settings().log_level)
            wanted = {name: parameters[name] for name in _OF_THE_FLOW}
            if as_flow or (as_flow is None and _is_api_there()):
                return _run_as_flow(wanted)
            return _run_here(wanted)
    except ConfigurationError as error:
        return _fail("record-depth", error, USAGE)
    except (CaptureFailed, IbkrError, StoreError, OSError) as error:
        return _fail("record-depth", error, FAILED)


def recover(output: Path | None) -> int:
    """Recover the dead sessions of a data root and print one line per session and symbol.

    Args:
        output: the data root; that of the settings when None.

    Returns:
        The exit code: 1 when something could not be recovered.
    """
    try:
        with _environment({"output": output}, sandbox=False):
            settings = load_settings()
            _log_to_stderr(settings.log_level)
            _check_folder(output)
            sessions = recover_root(settings.data_root)
    except ConfigurationError as error:
        return _fail("recover", error, USAGE)
    except (StoreError, OSError) as error:
        return _fail("recover", error, FAILED)
    for session in sessions:
        for symbol, found in session.symbols.items():
            _say(
                f"RECOVERED {symbol} session={session.session_id} messages={found.messages} "
                f"snapshots={found.snapshots} gaps={found.gaps} segments={found.segments}"
            )
    problems = [problem for session in sessions for problem in session.problems]
    for problem in problems:
        _fail("recover", problem, FAILED)
    if not sessions:
        print("trading-data recover: nothing to recover", file=sys.stderr)  # noqa: T201 - what there is to say
    return FAILED if problems else OK


def _check_folder(output: Path | None) -> None:
    if output is not None and not output.is_dir():
        raise ConfigurationError(f"{output} is no folder; name the data root whose captures died")


def _is_api_there() -> bool:
    """Whether Prefect's API is configured and answers; a market day must not be lost because it does not."""
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return False
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=_API_TIMEOUT_S) as answer:  # noqa: S310 - the user's own server
            return bool(answer.status == HTTPStatus.OK)
    except urllib.error.HTTPError:
        # It is there; what it lacks, Prefect says better.
        return True
    except (OSError, ValueError) as error:
        logger.warning("Prefect's API at PREFECT_API_URL does not answer (%s): capturing without it", error)
        return False


def _run_here(wanted: dict[str, Any]) -> int:
    job = assemble(now_ns=time.time_ns(), **wanted)
    if job.closed:
        return _closed()
    check_ready(job)
    return _finish(record(job, watchers=[on_stderr]))


def _run_as_flow(wanted: dict[str, Any]) -> int:
    # Nothing leaves the machine.
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    # The temporary API takes 10 s and more to start; Prefect gives up after 20.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    # What a person gave is checked before Prefect is asked for a run; the flow does it again, and then it is logged.
    logging.disable(logging.WARNING)
    try:
        job = assemble(now_ns=time.time_ns(), **wanted)
        if job.closed:
            return _closed()
        check_ready(job)
    finally:
        logging.disable(logging.NOTSET)
    from prefect.exceptions import TerminationSignal  # noqa: PLC0415 - Prefect takes seconds to import

    from flows.record_depth import record_depth  # noqa: PLC0415 - likewise

    # Prefect turns SIGTERM into an exception and afterwards hands it to the handler that was there before: this one.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        document = record_depth(**wanted)
    except CaptureFailed as error:
        if error.summary is None:
            raise
        return _finish(RecordResult.from_document(error.summary))
    except (KeyboardInterrupt, TerminationSignal):
        # Before the capture began, or after its end: nothing is lost.
        logger.warning("interrupted; what was captured is on disk")
        return OK
    return _finish(RecordResult.from_document(document)) if document else _closed()


def _finish(result: RecordResult) -> int:
    for row in result.symbols:
        _say(row.line)
    for failure in result.failures:
        _fail("record-depth", failure, FAILED)
    return FAILED if result.failures else OK


def _closed() -> int:
    print("trading-data record-depth: the exchange is closed today, nothing to do", file=sys.stderr)  # noqa: T201 - likewise
    return OK


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the lines of stdout


def _fail(command: str, problem: object, code: int) -> int:
    print(f"trading-data {command}: {problem}", file=sys.stderr)  # noqa: T201 - the one clear error
    return code


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(
        level=level, stream=_CurrentStderr(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    logging.captureWarnings(True)
    for handler in logging.getLogger().handlers:
        # A failed capture has its own lines already; Prefect's would add a traceback.
        handler.addFilter(lambda record: not record.name.startswith("prefect.task_runs"))
    for noisy in ("asyncio", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))


@contextmanager
def _environment(parameters: dict[str, Any], *, sandbox: bool) -> Iterator[None]:
    """What the command line says of gateway and data root beats the settings, for this process and its children.

    Raises:
        ConfigurationError: a gateway is named, and a sandbox wanted.
    """
    given = {
        key: str(int(value) if isinstance(value, bool) else value)
        for name, key in _OF_THE_ENVIRONMENT.items()
        if (value := parameters.get(name)) is not None
    }
    is_named = not given.keys().isdisjoint(("IB_HOST", "IB_PORT"))
    if sandbox and is_named:
        raise ConfigurationError("--sandbox starts a gateway of its own; leave out --host and --port")
    if sandbox or is_named:
        # A gateway that is named is meant, whatever the settings say.
        given["FORCE_FAKE_IB"] = str(int(sandbox))
    before = {key: os.environ.get(key) for key in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
