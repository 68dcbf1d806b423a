"""Lets all tests of a process run as on another card (`test_other_cards_gpu.py`)."""

import os

if "AUTOTUNE_AS_ON" in os.environ:
    from other_card import pretend

    pretend(int(os.environ["AUTOTUNE_AS_ON"]))
