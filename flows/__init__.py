"""Flows: what is done in which order. Steps compose connectors; Prefect is used here and in connectors' `tasks`."""
