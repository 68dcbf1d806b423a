"""Reports: pure functions of stored records, from tables to figures to one page."""
