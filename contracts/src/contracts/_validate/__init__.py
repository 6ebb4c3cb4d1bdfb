"""What `contracts.validate` is made of; `kinds` lists every kind of file and its check."""
