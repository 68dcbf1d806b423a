"""Queues of trainings, workers, and the loop between them."""
