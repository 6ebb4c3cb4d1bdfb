"""prefect.yaml says only what Prefect understands: it drops unknown keys in silence and fails at run time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from flows.automations import PATIENCE
from flows.deployments import (
    CAPTURE_POOL,
    HEARTBEAT_S,
    POOL,
    SCHEDULED_TAG,
    TAG,
    find_prefect_yaml,
    read_deployments,
)
from flows.errors import ConfigurationError

YAML = Path(__file__).resolve().parents[2] / "prefect.yaml"
TEXT = YAML.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def wanted():
    return {each.full_name: each for each in read_deployments(YAML)}


def test_the_deployments_are_those_that_people_and_schedules_use(wanted):
    nights = {
        name: [(each.cron, each.timezone) for each in deployment.schedules] for name, deployment in wanted.items()
    }
    assert nights == {
        "backfill-l2/nightly": [("30 20 * * 1-5", "America/New_York")],
        "backfill-l2/on-demand": [],
        "record-depth/session": [("15 8 * * 1-5", "America/New_York")],
        "record-depth/on-demand": [],
        "download-bars/nightly": [("15 20 * * 1-5", "America/New_York")],
        "download-bars/on-demand": [],
        "refresh-coverage/after-download": [],
        "refresh-coverage/on-demand": [],
        "check-vendors/nightly": [("45 19 * * 1-5", "America/New_York")],
    }
    assert wanted["backfill-l2/nightly"].parameters == {"since_days": 7}


def test_captures_lie_in_the_pool_that_no_worker_polls_and_cancel_a_second_one_of_their_kind(wanted):
    captures = [each for name, each in wanted.items() if name.startswith("record-depth/")]
    others = [each for name, each in wanted.items() if not name.startswith("record-depth/")]
    assert {each.work_pool.name for each in captures} == {CAPTURE_POOL}
    assert {each.work_pool.name for each in others} == {POOL}
    assert {each.concurrency_limit.collision_strategy for each in captures} == {"CANCEL_NEW"}
    assert {each.concurrency_limit.collision_strategy for each in others} == {"ENQUEUE"}
    assert {each.concurrency_limit.limit for each in wanted.values()} == {1}


def test_every_run_gives_signs_of_life_and_has_the_tags_that_automations_go_by(wanted):
    for deployment in wanted.values():
        env = deployment.work_pool.job_variables["env"]
        assert env["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == str(HEARTBEAT_S)
        assert TAG in deployment.tags
        assert (SCHEDULED_TAG in deployment.tags) == bool(deployment.schedules)
    # Prefect's own frequency, which a run has whose environment somebody replaced, and an API that is away for 30 s.
    assert PATIENCE.dead_s >= 180 + 30


def test_every_parameter_has_a_type_and_a_description(wanted):
    """The form of the Prefect UI shows both."""
    for name, deployment in wanted.items():
        for parameter, schema in deployment.flow.parameters.properties.items():
            assert schema.get("description"), f"{name}: {parameter}"
            assert {"type", "anyOf", "$ref", "enum"} & set(schema), f"{name}: {parameter}"


def test_nothing_is_pulled_and_no_path_of_a_machine_is_named():
    assert yaml.safe_load(TEXT)["pull"] == []
    assert "directory" not in TEXT
    assert not re.search(r"[\"' ]/\w", TEXT)


def test_the_file_is_found_wherever_a_command_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = find_prefect_yaml()
    assert found.read_bytes() == YAML.read_bytes()
    with pytest.raises(ConfigurationError, match=r"no other\.yaml"):
        find_prefect_yaml(Path("other.yaml"))


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("    concurrency_limit: *one", "    concurency_limit: *one", "backfill_l2/nightly, concurency_limit"),
        ("pull: []", "pull: []\npush: []", "push"),
        ("pull: []", "pull: [{git_clone: {}}]", "pull"),
        ("since_days: 7", "since_day: 7", "since_day"),
        ("since_days: 7", "since_days: -7", "since_days: -7"),
        ("since_days: 7", "since_days: a week", "since_days: 'a week'"),
        ("since_days: 7", 'since_days: "{{ $NOT_SET_ANYWHERE }}"', "NOT_SET_ANYWHERE"),
        ('cron: "30 20 * * 1-5"', 'cron: "30 25 * * 1-5"', "cron"),
        ('cron: "30 20 * * 1-5"', 'cron: "0 30 20 * * 1-5"', "cron"),
        ("timezone: America/New_York", "timezone: America/NewYork", "timezone"),
        ("      - slug: weekday-evening\n", "      - active: true\n", "slug"),
        ("limit: 1", "limit: 0", "limit"),
        ("collision_strategy: ENQUEUE", "collision_strategy: ENQUE", "collision_strategy"),
        ("entrypoint: flows.backfill_l2.backfill_l2", "entrypoint: flows/backfill_l2.py:backfill_l2", "name a module"),
        ("entrypoint: flows.backfill_l2.backfill_l2", "entrypoint: flows.backfill_l2.backfil", "backfil"),
        ("entrypoint: flows.backfill_l2.backfill_l2", "entrypoint: flows.settings.load_settings", "load_settings"),
        ("        posture: Reactive", "        postur: Reactive", "postur"),
        ("        posture: Reactive", "        posture: Reactiv", "posture"),
        ("name: nightly", "name: on-demand", "backfill-l2/on-demand more than once"),
    ],
    ids=lambda value: " ".join(value.split())[:40],
)
def test_a_mistake_is_told_before_anything_is_deployed(tmp_path, old, new, named):
    assert old in TEXT
    file = tmp_path / "prefect.yaml"
    file.write_text(TEXT.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        read_deployments(file)
    assert named in str(caught.value)


def test_a_value_of_the_environment_is_filled_in(tmp_path, monkeypatch):
    monkeypatch.setenv("NIGHTLY_TASKS", "trades.csv")
    file = tmp_path / "prefect.yaml"
    file.write_text(TEXT.replace("since_days: 7", 'tasks_file: "{{ $NIGHTLY_TASKS }}"', 1), encoding="utf-8")
    assert read_deployments(file)[0].parameters == {"tasks_file": "trades.csv"}


@pytest.mark.parametrize("text", ["", "[]", "deployments: [", "deployments: nothing"], ids=repr)
def test_a_file_that_is_something_else_is_refused(tmp_path, text):
    file = tmp_path / "prefect.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"prefect\.yaml"):
        read_deployments(file)
