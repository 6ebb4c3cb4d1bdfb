"""Interactive Brokers: a gateway's live order books, seen message by message; the only importer of its client library."""
