"""`autotune watch --json`: what has happened to a study, and what happens, as events."""
