"""What `connectors.store.live` is made of."""
