"""A measured machine as a block for an issue, with the speed of a study's training."""

from __future__ import annotations

import re

from study_folder import StudyFolder


def test_a_block_to_share_has_the_speed_of_a_study(folder: StudyFolder) -> None:
    folder.write(base={"seconds": 0.2})
    said = folder.whole_command("profile", "--share", "--study", "fake.toml", "--device", "cpu")
    assert said.returncode == 0, said.stderr
    assert all(line.startswith("| ") or line == "|---|---|" for line in said.stdout.splitlines())
    assert re.search(r"\| fake, measured \| [\d,]+ tokens/s \|", said.stdout)
    assert "reasoned" not in said.stdout  # nothing is published of a CPU
