"""A short study file of the fake trainer, as a person would write it."""

TEXT = """
name = "night"
trainer = "fake_trainer:train"

[budget]
tokens = 1_000

[base]
lr = 0.02

[space]
lr = {low = 0.0001, high = 0.1, log = true}
"output.dir" = {choices = ["", "a"]}
"""
