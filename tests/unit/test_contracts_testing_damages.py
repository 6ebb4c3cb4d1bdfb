"""Every kind of damage of the kit: the validator finds it by the promised rule, readers do what is promised."""

import json

import pytest

from contracts import DepthMessages, SessionStats, parse_summary, validate_path
from contracts.errors import ContractError
from contracts.follow import follow_backfill, follow_bars, follow_gaps
from contracts.reader import MarketData
from contracts.testing import (
    BARS_DAY,
    DAMAGES,
    LIVE_SYMBOL,
    SAMPLE_DAY,
    SAMPLE_SYMBOL,
    apply_damage,
    damaged_root,
    write_sample_root,
)

FOLLOWED = {
    "backfill_manifest": (follow_backfill, 2),
    "bars_manifest": (follow_bars, 7),
    "gaps": (follow_gaps, 1),
}
PARSED = {
    "messages": DepthMessages.from_json,
    "session_stats": SessionStats.from_json,
    "backfill_summary": parse_summary,
}


def read(root, damage, path):
    """Read the damaged artifact as a consumer does; returns how many lines or bars were left out."""
    if damage.artifact == "snapshots":
        for symbol in (SAMPLE_SYMBOL, LIVE_SYMBOL):
            MarketData(root.path).snapshots(symbol, SAMPLE_DAY)
    elif damage.artifact in ("bars", "bars_coverage"):
        return 390 - MarketData(root.path).bars(SAMPLE_SYMBOL, "1 min", BARS_DAY).num_rows
    elif damage.artifact in FOLLOWED:
        follow, lines = FOLLOWED[damage.artifact]
        return lines - len(follow(path).lines)
    elif path.exists():
        PARSED[damage.artifact](path.read_bytes())
    return 0


@pytest.mark.parametrize("name", DAMAGES)
def test_the_validator_finds_the_damage_and_readers_do_what_is_promised(tmp_path, name):
    damaged = damaged_root(tmp_path, name)
    damage = damaged.damage
    report = validate_path(tmp_path)
    assert (damage.rule, damage.severity) in {(finding.rule, finding.severity) for finding in report.findings}
    assert report.ok == (damage.severity == "warning")
    if damage.outcome == "raises":
        with pytest.raises(ContractError) as caught:
            read(damaged.root, damage, damaged.path)
        assert type(caught.value) is damage.error
    else:
        left_out = read(damaged.root, damage, damaged.path)
        assert left_out == (1 if damage.outcome == "leaves out" else 0)


def test_damages_tell_what_they_are():
    for name, damage in DAMAGES.items():
        assert name == damage.name
        assert name.startswith(f"{damage.artifact.replace('_', '-')}-")
        assert damage.description
        assert (damage.error is None) == (damage.outcome != "raises")
    assert len({damage.description for damage in DAMAGES.values()}) > len(DAMAGES) // 2


def test_a_damage_changes_one_file_and_says_which(tmp_path):
    whole = write_sample_root(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    changed = apply_damage(whole, "backfill-manifest-rows-as-text")
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path for path in before if before[path] != after[path]} == {changed}
    assert json.loads(changed.read_text().splitlines()[0])["rows"] == "600"


def test_an_unknown_damage_says_which_there_are_and_writes_nothing(tmp_path):
    with pytest.raises(LookupError, match="no damage 'no-such', there are snapshots-text, "):
        damaged_root(tmp_path / "new", "no-such")
    assert not (tmp_path / "new").exists()


def test_the_mapping_of_damages_cannot_be_changed():
    with pytest.raises(TypeError):
        DAMAGES["mine"] = DAMAGES["snapshots-text"]
