"""What `contracts.availability` is made of."""
