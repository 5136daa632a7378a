"""What is written: whole or not at all, and nothing of others is deleted."""
