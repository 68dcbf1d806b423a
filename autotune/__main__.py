"""`python -m autotune`: the command line where no script is installed."""

from autotune.cli.main import main

main()
