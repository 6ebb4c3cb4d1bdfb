"""What `connectors.store.bars` is made of."""
