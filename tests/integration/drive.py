"""The `autotune` command without its report, so that tests of the engine stand without the report room."""

from autotune import cli


def _no_report(_: object) -> list[str]:
    """Takes the place of the report."""
    return []


if __name__ == "__main__":
    cli.finish_report = cli.refresh_report = _no_report
    cli.main()
