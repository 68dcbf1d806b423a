"""The search engine: study files, trials, finals and promotion. Importing it loads neither torch nor Optuna."""
