"""prefect.yaml says only what Prefect understands: it drops unknown keys in silence and fails at run time."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import yaml

YAML = Path(__file__).resolve().parents[2] / "prefect.yaml"
DOCUMENT = yaml.safe_load(YAML.read_text(encoding="utf-8"))
KNOWN = {
    "name",
    "description",
    "entrypoint",
    "work_pool",
    "parameters",
    "tags",
    "concurrency_limit",
    "schedules",
    "version",
}


def test_nothing_is_pulled_and_no_path_of_a_machine_is_named():
    assert DOCUMENT["pull"] == []
    assert "directory" not in YAML.read_text(encoding="utf-8")


@pytest.mark.parametrize("deployment", DOCUMENT["deployments"], ids=lambda deployment: deployment["name"])
def test_a_deployment_names_an_importable_flow_and_parameters_it_has(deployment):
    assert set(deployment) <= KNOWN
    module, _, name = deployment["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), name)
    assert set(deployment["parameters"]) <= set(flow.parameters.properties)
    # The form of the Prefect UI shows a description for each.
    assert all(flow.parameters.properties[key].get("description") for key in flow.parameters.properties)
    assert all(schedule["slug"] for schedule in deployment.get("schedules", []))
