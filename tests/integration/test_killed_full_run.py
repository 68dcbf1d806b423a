"""kill -9 of `autotune train` at random moments, each time gone on with: nothing of it is left in the result."""

import random
import signal
import subprocess
from pathlib import Path

import pytest
from short_training import run, small_config, without_times
from train_command import PATIENCE_S, TrainCommand

pytestmark = pytest.mark.usefixtures("one_thread")

PASSES, SEQUENCES, SEQ_LEN = 400, 4, 32
BUDGET_TOKENS = PASSES * SEQUENCES * SEQ_LEN
KILLS = 4


@pytest.mark.thorough
def test_killed_again_and_again_it_ends_as_if_it_never_had_been(speeches, tmp_path):
    """Dropout, three passes a batch and a checkpoint every fifth: it goes on in the midst of batches, too."""
    config = small_config(
        speeches,
        model={"dropout": 0.1},
        optim={"grad_accum_steps": 3},
        data={"num_evals": 8},
        output={"checkpoint_every_tokens": 5 * SEQUENCES * SEQ_LEN, "sample_tokens": 0},
    )
    output = config.output.model_copy(update={"dir": str(tmp_path / "whole")})
    expected, facts = run(config.model_copy(update={"output": output}), BUDGET_TOKENS)

    seed = random.SystemRandom().randrange(2**32)
    print(f"seed of the kills: {seed}")
    draw = random.Random(seed)
    command, places = TrainCommand(tmp_path, config, BUDGET_TOKENS), []
    for number in range(KILLS):
        # One in each quarter of the run but its last sixth, so that none comes too late; the pause falls anywhere
        # between two checkpoints and into their writing.
        place = int(PASSES * SEQUENCES * 0.84 * (number + draw.random()) / KILLS)
        pause_s = draw.random() * 0.03
        process = command.start()
        command.wait_until_kept(process, max([place, *(kept + 1 for kept in command.kept())]))
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(pause_s)
        process.kill()
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == -signal.SIGKILL
        places.append(command.kept()[-1])
    print(f"killed after {places} sequences")
    assert any(place % config.batch_sequences for place in places)

    text = command.run()
    assert text.count("loss") == 8
    assert without_times(command.curve()) == without_times(expected[:-1])
    assert command.final()["loss"] == expected[-1]["val_loss"]
    assert command.weights().read_bytes() == Path(facts["weights_path"]).read_bytes()
    assert not list(command.out.rglob("*.tmp"))
