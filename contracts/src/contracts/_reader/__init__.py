"""What `contracts.reader` is made of."""
