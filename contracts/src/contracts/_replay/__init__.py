"""What `contracts.book` replays messages with."""
