"""Databento: historical Level-2 records, planned, bought once, verified, shaped; the only importer of `databento`."""
