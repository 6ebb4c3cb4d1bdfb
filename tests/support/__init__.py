"""What several rooms of tests share; found by the name `support` (pytest's pythonpath)."""
