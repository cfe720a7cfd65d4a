"""What a model generates, and whether it looks like the data."""
