"""Version 1 of every artifact: pydantic models, edited by hand, and the Arrow schemas beside them.

The JSON Schemas in `schemas/` are generated from these models by `tools/schemas.py`; do not edit them.
"""
