"""Study files, which are installed with the project: `autotune run quickstart` works in any folder."""
