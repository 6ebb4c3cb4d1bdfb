"""Connectors: one boundary each. They do not import each other; flows compose them."""
