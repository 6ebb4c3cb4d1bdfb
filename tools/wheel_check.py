"""The contracts wheel alone, as TF_1 installs it: built, put into an empty environment, and tried on written files.

    python tools/wheel_check.py [--data ROOT]

In the new environment it validates and loads a data root that the flows wrote (`--data`), catches every damaged root of
the testing kit, and runs the tour of contracts/README.md. pip needs its package index for the wheel's dependencies.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
FOREIGN = ("connectors", "databento", "duckdb", "flows", "ib_insync", "polars", "prefect", "typer")
"""Nothing of the producer is in the environment of a consumer."""


def build_environment(folder: Path) -> Path:
    """Build the wheel and install it with its testing extra into a new environment; returns its Python."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    wheels = folder / "dist"
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "-w", wheels, REPOSITORY / "contracts"], check=True)
    (wheel,) = wheels.glob("marketdata_contracts-*.whl")
    print(f"built {wheel.name} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}", flush=True)
    environment = folder / "env"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    constraints = REPOSITORY / "constraints.txt"
    install: list[str | Path] = [
        python,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
        "-c",
        constraints,
    ]
    subprocess.run([*install, f"{wheel}[testing]"], check=True)
    return python


def check_inside(data: Path | None) -> None:
    """Run in the new environment, in a folder of its own."""
    installed = {name.lower() for name in importlib.metadata.packages_distributions()}
    found = installed & set(FOREIGN)
    if found:
        raise SystemExit(f"the environment of a consumer has {', '.join(sorted(found))}")

    from contracts import __version__  # noqa: PLC0415 - there is no such package outside the new environment

    print(f"marketdata-contracts {__version__} and {len(installed)} packages", flush=True)
    if data is not None:
        load_everything(data)
    catch_every_damage()
    tour: list[str | Path] = [sys.executable, "-W", "error", REPOSITORY / "tools" / "readme_tour.py"]
    Path("tour").mkdir()
    subprocess.run([*tour, REPOSITORY / "contracts" / "README.md"], check=True, cwd="tour")


def load_everything(root: Path) -> None:
    """Validate a root and load every day of every symbol in it."""
    from contracts import MarketData, validate_path  # noqa: PLC0415 - as in check_inside

    report = validate_path(root)
    if report.findings:
        raise SystemExit("\n".join(str(finding) for finding in report.findings))
    data = MarketData(root)
    days = rows = 0
    for symbol in data.symbols():
        for day in data.days(symbol):
            matrices = data.matrices(symbol, day)
            assert matrices.bid_prices.shape == (len(matrices.ts_ns), matrices.levels)  # noqa: S101 - this is a check
            days += 1
            rows += len(matrices.ts_ns)
    if not days:
        raise SystemExit(f"{root} has nothing to load")
    print(f"validated {report.files} files of {root.name}, loaded {rows} rows of {days} days", flush=True)


def catch_every_damage() -> None:
    """Hold the validator against every damaged root of the kit, and against the undamaged one."""
    from contracts import validate_path  # noqa: PLC0415 - as in check_inside
    from contracts.testing import DAMAGES, damaged_root, write_sample_root  # noqa: PLC0415 - as in check_inside

    sound = validate_path(write_sample_root(Path("sound")).path)
    if sound.findings:
        raise SystemExit("\n".join(str(finding) for finding in sound.findings))
    for name, damage in DAMAGES.items():
        rules = {
            finding.rule for finding in validate_path(damaged_root(Path("damaged", name), name).root.path).findings
        }
        if damage.rule not in rules:
            raise SystemExit(f"{name}: {damage.rule} was not found, only {sorted(rules)}")
    print(f"caught {len(DAMAGES)} damaged roots", flush=True)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a data root that the flows wrote")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    data = None if options.data is None else options.data.resolve()
    if options.inside:
        check_inside(data)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        python = build_environment(Path(folder))
        place = Path(folder, "work")
        place.mkdir()
        inside: list[str | Path] = [python, "-W", "error", Path(__file__).resolve(), "--inside"]
        env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        arguments = [] if data is None else ["--data", data]
        return subprocess.run([*inside, *arguments], check=False, cwd=place, env=env).returncode


if __name__ == "__main__":
    sys.exit(main())
