"""What is said while a study works: console, events, trackers."""
