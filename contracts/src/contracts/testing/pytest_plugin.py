"""Fixtures for pytest: data roots to read, whole ones and damaged ones.

In a `conftest.py`:

    pytest_plugins = ["contracts.testing.pytest_plugin"]

and then, for instance:

    def test_the_loader_gives_every_row(marketdata_root, marketdata_symbol, marketdata_day):
        assert len(my_loader(marketdata_root.path, marketdata_symbol, marketdata_day)) == 600

    @pytest.mark.parametrize("damaged_marketdata_root", ["snapshots-short-list"], indirect=True)
    def test_the_loader_refuses_a_short_list(damaged_marketdata_root, marketdata_symbol, marketdata_day):
        with pytest.raises(MyError):
            my_loader(damaged_marketdata_root.root.path, marketdata_symbol, marketdata_day)

A test that takes `damaged_marketdata_root` without naming damages runs once for each kind there is. Nothing loads this
module by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from contracts.testing import DAMAGES, SAMPLE_DAY, SAMPLE_SYMBOL, DamagedRoot, damaged_root, write_sample_root

try:
    import pytest
except ImportError as error:
    raise ImportError(
        "contracts.testing.pytest_plugin needs pytest: pip install marketdata-contracts[testing]"
    ) from error

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

    from contracts.layout import DataRoot

__all__ = ["damaged_marketdata_root", "marketdata_day", "marketdata_root", "marketdata_symbol"]


@pytest.fixture
def marketdata_root(tmp_path: Path) -> DataRoot:
    """A data root with every artifact, as `write_sample_root` writes it, new for each test."""
    return write_sample_root(tmp_path / "marketdata")


@pytest.fixture
def marketdata_symbol() -> str:
    """The symbol of the historical snapshots and of the bars in the sample root."""
    return SAMPLE_SYMBOL


@pytest.fixture
def marketdata_day() -> date:
    """The ET day of the Level-2 files in the sample root."""
    return SAMPLE_DAY


@pytest.fixture(params=sorted(DAMAGES))
def damaged_marketdata_root(request: pytest.FixtureRequest, tmp_path: Path) -> DamagedRoot:
    """A sample root with one kind of damage, each of `DAMAGES` in turn, or those that `parametrize` names."""
    return damaged_root(tmp_path / "damaged-marketdata", request.param)
