"""The `autotune` command without its report, so that tests of the engine stand without the report room."""

from autotune import cli


def _no_report(_: object) -> None:
    """Takes the place of the report."""


if __name__ == "__main__":
    cli.finish_report = cli.refresh_report = _no_report
    cli.main()
