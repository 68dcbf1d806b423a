"""What is stored: run directory, database, the Optuna studies in it."""
