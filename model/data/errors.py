"""What is raised where data cannot be used."""


class CorpusError(ValueError):
    """The data cannot be used as configured; the message says what is wrong and the ways out.

    Args:
        message: For a person.
        setting: Dotted path of the setting that the message is about, such as "data.path"; "" if there is none.
        exit_code: What a command ends with: 2 for what the user can mend in a file, 3 for what the machine lacks.
    """

    def __init__(self, message: str, setting: str = "", exit_code: int = 2) -> None:
        super().__init__(message)
        self.setting = setting
        self.exit_code = exit_code
