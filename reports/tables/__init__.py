"""Stored records as tables: rows and numbers, without a sentence or a figure."""
