"""What `contracts.coverage` is made of: reading the ledger, the rules, and the files of a root."""
