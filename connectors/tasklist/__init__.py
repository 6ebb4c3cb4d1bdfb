"""Task lists that people keep: which symbols on which days. Import the module you need; nothing is fetched here."""
