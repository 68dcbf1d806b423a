"""Datasets of the Hugging Face hub: found, fetched in parts, tokenised meanwhile, and kept as they come."""
