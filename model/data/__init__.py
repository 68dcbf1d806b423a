"""Text to batches of tokens: sources, tokenizer, held-out split, windows."""
