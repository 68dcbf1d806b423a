"""What the page says in sentences, from the records and their tables."""
