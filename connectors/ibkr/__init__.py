"""Interactive Brokers: live order books, seen message by message; the only importer of the gateway's client."""
