"""Study files that are wrong, and modules that are no trainers: what is written, and what must be said of it.

Each fault is one difference from a study file that is right. Its answer is a line of the file, the key and a sentence.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_RIGHT = {
    "top": 'name = "night"\ntrainer = "fake_trainer:train"',
    "budget": "tokens = 1_000",
    "base": "lr = 0.02",
    "space": "lr = {low = 0.0001, high = 0.1, log = true}",
    "more": '[sampler]\nname = "random"',
}
_RANGE = "lr = {low = 0.001, high = 0.1, when = {%s}}"
_CHOICES = "layers = {choices = [1, 2]}\n"
_WHOLE = "layers = {low = 1, high = 4}\n"

Fault = tuple[str, str, str]
"""A name, the text of a study file, and what the answer must contain."""


def text(**parts: str) -> str:
    """Returns a study file that is right, but for some of its parts: `top`, `budget`, `base`, `space`, `more`."""
    part = {**_RIGHT, **parts}
    if "[sampler]" not in part["more"]:
        part["more"] += f"\n{_RIGHT['more']}"
    tables = [f"[{name}]\n{part[name]}" for name in ("budget", "base", "space")]
    return "\n".join([part["top"], *tables, part["more"]]) + "\n"


def _top(line: str) -> str:
    """One more line at the top, in the place of the one with the same key."""
    key = line.partition("=")[0].strip()
    kept = [other for other in _RIGHT["top"].splitlines() if other.partition("=")[0].strip() != key]
    return text(top="\n".join([*kept, line]))


def _budget(line: str) -> str:
    return text(budget=line if line.startswith("tokens") else f"tokens = 1_000\n{line}")


def faults() -> Iterator[Fault]:
    """Yields every fault, named uniquely."""
    for kind in (_long_numbers, _large_numbers, _nesting, _trainers, _types, _ranges, _conditions, _times, _names):
        yield from kind()
    for kind in (_base, _algorithms, _further, _toml):
        yield from kind()


def _long_numbers() -> Iterator[Fault]:
    for length in (20, 310, 5000):
        digits = "7" * length
        # The keys before a number that Python cannot read are told with their line.
        yield f"tokens of {length} digits", _budget(f"tokens = {digits}"), "tokens"
        yield f"minus {length} digits", _budget(f"tokens = -{digits}"), "tokens"
        yield f"seed of {length} digits", _top(f"seed = {digits}"), "seed"
        yield f"trials of {length} digits", _budget(f"trials = {digits}"), "trials"
        yield f"high of {length} digits", text(space=f"layers = {{low = 1, high = {digits}}}"), "layers"
        yield f"log high of {length} digits", text(space=f"lr = {{low = 0.01, high = {digits}, log = true}}"), "lr"
        yield f"choice of {length} digits", text(space=f"layers = {{choices = [2, {digits}]}}"), "layers"
        yield f"limit of {length} digits", text(space=f"layers = {{low=1, high=4, limits=[1, {digits}]}}"), "layers"
        yield f"step of {length} digits", text(space=f"layers = {{low = 1, high = 4, step = {digits}}}"), "layers"
        yield f"condition of {length} digits", text(space=_RANGE % f"layers = {digits}"), "lr"
        yield f"base of {length} digits", text(base=f"layers = {digits}"), "layers"
        yield f"hours of {length} digits", _budget(f"hours = {digits}"), "hours"
        yield f"free disk of {length} digits", text(more=f"[limits]\nmin_free_bytes = {digits}"), "min_free_bytes"
        yield f"promoted {length} digits", text(more=f"[promote]\ntokens = {digits}"), "tokens"
        yield f"enqueued {length} digits", text(more=f"[[enqueue]]\nlr = {digits}"), "lr"
        yield (
            f"startup trials of {length} digits",
            text(more=f'[sampler]\nname = "tpe"\nn_startup_trials = {digits}'),
            "n_startup_trials",
        )
    yield "hexadecimal of 5000 digits", _budget(f"tokens = 0x{'f' * 5000}"), "budget.tokens: "


def _large_numbers() -> Iterator[Fault]:
    lines = {
        "finals": ("finalists = 1_000_000_000", "prove_seeds = 1_000_000_000", "max_seeds = 1_000_000_000_000"),
        "limits": ("heartbeat_s = 1_000_000_000", "hang_s = inf"),
        "promote": ("num_evals = 1_000_000_000_000",),
    }
    for table, entries in lines.items():
        for line in entries:
            yield line, text(more=f"[{table}]\n{line}"), f"{table}.{line.partition(' ')[0]}: must be"
    yield "a trillion seeds", _budget("seeds = 1_000_000_000_000"), "budget.seeds: must be"
    yield "a seed of 33 bits", _top("seed = 4_294_967_296"), "seed: must be"


def _nesting() -> Iterator[Fault]:
    for depth in (30, 500, 5000, 50_000):
        yield f"{depth} lists", text(base=f"x = {'[' * depth}{']' * depth}"), "nested more than 20 deep"
        yield f"{depth} tables", text(base=f"x = {'{a=' * depth}1{'}' * depth}"), "nested more than 20 deep"
    for depth in (30, 1500):
        dots = ".".join("a" * depth)
        yield f"a key of {depth} parts", text(base=f"{dots} = 1"), "nested more than 20 deep"
        yield f"a header of {depth} parts", text(more=f"[base.{dots}]\nx = 1"), "nested more than 20 deep"
    yield "lists as a name", _top(f"name = {'[' * 300}{']' * 300}"), "nested more than 20 deep"


def _trainers() -> Iterator[Fault]:
    spelled = 'write it as "package.module:function"'
    three = "it must take three arguments"
    names = {
        "": spelled, ":": spelled, "fake_trainer": spelled, "fake_trainer:": spelled, "a:b:c": spelled,
        ".fake_trainer:train": spelled, "..:train": spelled, "./fake_trainer:train": spelled, " a:train": spelled,
        "fake_trainer: train": spelled, "fake-trainer:train": spelled, "a\\u0000b:train": spelled,
        "fake_trainer:train.x": spelled, "fake_trainer.py:train": "cannot import fake_trainer.py",
        "a" * 5000 + ":train": "cannot import aaa", "builtins:exit": three, "builtins:quit": three,
        "builtins:print": "annotate its first parameter", "builtins:dict": "is a class", "builtins:int": "is a class",
        "os:_exit": three, "os:abort": three, "sys:exit": three, "math:sqrt": three, "os:system": three,
        "json:dumps": three, "fake_trainer:FakeConfig": "is a class", "fake_trainer:SIGNALS": "is not a function",
        "__main__:no_such": "no function no_such", "fake_trainer:_strike": three,
    }  # fmt: skip
    for name, wanted in names.items():
        yield f"trainer {name[:30]!r}", _top(f'trainer = "{name}"'), wanted
    for module, (_, wanted) in MODULES.items():
        yield f"module {module}", _top(f'trainer = "bad_{module}:train"'), wanted


_TRAIN = "def train(config: %s, budget_tokens, report): pass\n"
_CONFIG = (
    "from pydantic import BaseModel, Field, field_serializer, field_validator\n"
    "class C(BaseModel):\n    lr: float = 0.1\n"
)
_VALIDATOR = "    @field_validator('lr')\n    def check(cls, value): raise %s\n"
MODULES = {
    "exits": ("import sys\nsys.exit(3)\n", "cannot import bad_exits: it ends the process (SystemExit: 3)"),
    "exits_with_0": ("raise SystemExit(0)\n", "it ends the process"),
    "exits_with_text": ("raise SystemExit('no GPU here')\n", "it ends the process (SystemExit: no GPU here)"),
    "interrupts": ("raise KeyboardInterrupt\n", "cannot import bad_interrupts: KeyboardInterrupt"),
    "base_exception": ("class Odd(BaseException): pass\nraise Odd('planned')\n", "Odd: planned"),
    "generator_exit": ("raise GeneratorExit\n", "cannot import bad_generator_exit: GeneratorExit"),
    "recursion": ("def f(): return f()\nf()\n", "RecursionError"),
    "memory": ("raise MemoryError\n", "cannot import bad_memory: MemoryError"),
    "syntax": ("def (:\n", "cannot import bad_syntax: SyntaxError"),
    "null_bytes": ("x = 1\0\n", "cannot import bad_null_bytes"),
    "no_words": ("class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd\n", "Odd"),
    "many_lines": ("raise ValueError('one\\ntwo\\n' * 1000)\n", "ValueError: one two"),
    "lazy": ("def __getattr__(name): raise RuntimeError('lazy')\n" + _TRAIN % "dict", "RuntimeError: lazy"),
    "hint_exits": (_TRAIN % "'exit()'", "it ends the process"),
    "hint_divides": (_TRAIN % "'1 / 0'", "division by zero"),
    "validator_raises": (_CONFIG + _VALIDATOR % "RuntimeError('planned')" + _TRAIN % "C", "RuntimeError: planned"),
    "validator_exits": (_CONFIG + _VALIDATOR % "SystemExit(0)" + _TRAIN % "C", "it ends the process"),
    "default_raises": (_CONFIG + "    x: int = Field(default_factory=lambda: 1 / 0)\n" + _TRAIN % "C", "ZeroDivision"),
    "no_json": (_CONFIG + "    x: object = object()\n" + _TRAIN % "C", "the type of its config fails"),
    "dump_fails": (
        _CONFIG
        + "    @field_serializer('lr')\n    def dump(self, value): raise RuntimeError('planned')\n"
        + _TRAIN % "C",
        "planned",
    ),
    "rules_of_lists": ("length_rules = {'lr': ['learning_rate']}\n" + _TRAIN % "dict", "length_rules"),
    "rules_of_numbers": ("length_rules = {3: 'learning_rate'}\n" + _TRAIN % "dict", "length_rules"),
    "rules_of_two_batches": (
        "length_rules = {'lr': 'batch', 'seed': 'batch'}\n" + _TRAIN % "dict",
        'call lr and seed a "batch"; name one of them',
    ),
    "untrained_number": ("untrained_settings = 3\n" + _TRAIN % "dict", "untrained_settings"),
    "untrained_numbers": ("untrained_settings = [1, 2]\n" + _TRAIN % "dict", "untrained_settings"),
    "config_is_a_list": (_TRAIN % "list", "base: must be a valid list"),
    "config_is_a_number": (_TRAIN % "int", "base: must be a valid integer"),
    "two_arguments": ("def train(config: dict, budget_tokens): pass\n", "it must take three arguments"),
    "four_arguments": ("def train(config: dict, b, report, more): pass\n", "it must take three arguments"),
    "by_name": ("def train(config: dict, *, budget_tokens, report): pass\n", "it must take three arguments"),
    "awaited": ("async " + _TRAIN % "dict", "write a plain function"),
    "iterated": ("def train(config: dict, b, report):\n    yield 1\n", "write a plain function"),
    "a_function_without_hints": ("train = lambda config, b, report: None\n", "annotate its first parameter"),
}  # fmt: skip
"""Source of a module `bad_NAME`, and what must be said of a study that names its function `train`."""


def write_modules(folder: Path) -> None:
    """Writes the modules that are no trainers into a folder."""
    for name, (source, _) in MODULES.items():
        (folder / f"bad_{name}.py").write_text(source)


def _types() -> Iterator[Fault]:
    for key in ("tokens", "trials", "seeds", "hours"):
        for value in ("true", '"5"', "[1]", "{}", "1979-05-27", "nan", "-inf", "0", "-1"):
            yield f"budget.{key} = {value}", _budget(f"{key} = {value}"), f"budget.{key}: must be"
    for key in ("ends_early", "match_epochs"):
        for value in ("1", '"yes"', "1.0"):
            yield f"budget.{key} = {value}", _budget(f"{key} = {value}"), f"budget.{key}: must be"
    entries = (
        "finals.finalists = true", "finals.min_gain_frac = true", "finals.min_gain_frac = nan",
        'finals.prove_seeds = "4"', "finals.attribute_seeds = true", "promote.tokens = true",
        'promote.automatic = "yes"', "promote.bracket = 0", "limits.hang_s = true", "limits.hang_s = nan",
        'limits.hang_s = "600"', "limits.crashes = true", "limits.retries = true", "limits.heartbeat_s = 1.5",
        "limits.min_free_bytes = true", "limits.min_free_bytes = inf", "sampler.name = true", "pruner.name = 3",
        "pruner.audit_frac = true", "pruner.audit_frac = nan", 'pruner.audit_frac = "0.1"', "seed = true",
        'seed = "3"', "seed = 1.5", "name = true", "title = 3", "trainer = 3", "storage = true", "objective = true",
        'warm_start = "runs/a"', 'trackers = "wandb"', "enqueue = 3", 'pruner = "none"', "finals = 2", "limits = []",
    )  # fmt: skip
    for entry in entries:
        key = entry.partition(" = ")[0]
        table, _, name = key.rpartition(".")
        body = text(more=f"[{table}]\n{name}{entry.removeprefix(key)}") if table else _top(entry)
        yield entry, body, f"{key}: "


def _ranges() -> Iterator[Fault]:
    dimensions = {
        "lr = {low = 0.02, high = 0.02}": "nothing is searched", "layers = {low = 2, high = 2}": "nothing is searched",
        "layers = {choices = [2]}": "nothing is searched", "lr = {low = nan, high = 0.1}": "lr.low: must be finite",
        "lr = {low = -inf, high = 0.1}": "lr.low: must be finite", "lr = {low = 0.1, high = inf}": "must be finite",
        "lr = {low = 0.0, high = 0.1, step = nan}": "lr.step: must be finite",
        "lr = {low = 0.0, high = 0.1, step = inf}": "lr.step: must be finite",
        "lr = {low = 0.001, high = 0.1, limits = [nan, 1.0]}": "must be finite",
        "lr = {choices = [0.02, nan]}": "must be finite", "lr = {choices = [0.02, inf]}": "must be finite",
        "layers = {choices = [1, true, 2]}": "lists a value twice", "layers = {low = true, high = 4}": "layers.low",
        "layers = {choices = [2, 2.0]}": "lists a value twice", 'layers = {choices = "24"}': "layers.choices",
        'lr = {low = 0.001, high = 0.1, log = "true"}': "lr.log", "lr = {low = 0.001, high = 0.1, log = 1}": "lr.log",
        "lr = {choices = [1979-05-27]}": "must be a number, text", "lr = {choices = {a = 1}}": "lr.choices",
        "lr = {low = -1.7e308, high = 1.7e308}": "wider than numbers", "lr = true": "must be a table",
        "layers = {low = 1, high = 4, step = 0}": "step must be above 0", "lr = {}": "needs low and high",
        "lr = {low = 0.0, high = 0.1, step = 1e-320}": "leave step out", "lr = [0.1]": "must be a table",
        f"layers = {{choices = {list(range(5000))}}}": "more than 1,000", '"" = {choices = [1, 2]}': "no setting",
        '"lr." = {choices = [0.1, 0.2]}': "no setting", '"{lr}" = {choices = [1, 2]}': 'no setting "{lr}"',
        '"l\\nr" = {choices = [1, 2]}': "no setting", f'"{"x" * 5000}" = {{choices = [1, 2]}}': "no setting",
        '"[b]lr[/b]" = {choices = [1, 2]}': 'no setting "[b]lr[/b]"', '"%s" = {choices = [1, 2]}': 'setting "%s"',
        'output = {choices = ["a", "b"]}': "no setting", 'layers = {choices = [2, "deep"]}': "the trainer refuses",
        'lr = {choices = [0.02, "fast", 0.1]}': "the trainer refuses",
    }  # fmt: skip
    for line, wanted in dimensions.items():
        yield line[:60], text(space=line), wanted


def _conditions() -> Iterator[Fault]:
    never = "never holds"
    chain = "layers = {choices = [1, 2]}\nheads = {choices = [2, 4], when = {layers = 2}}\n"
    conditions = {
        "lyers = 2": "no setting", "layers = {a = 1}": "must be a number", "layers = []": never,
        "layers = nan": "must be finite", "layers = 7": never, "lr = 0.01": "cannot depend on itself",
    }  # fmt: skip
    for when, wanted in conditions.items():
        yield f"when {when}", text(space=_RANGE % when), wanted
    spaces = {
        _CHOICES + _RANGE % "layers = [3, 4]": never, _WHOLE + _RANGE % "layers = 9": never,
        _WHOLE + _RANGE % "layers = 2.5": never, _WHOLE + _RANGE % 'layers = "2"': never,
        _WHOLE + _RANGE % "layers = true": never, chain + _RANGE % "layers = 1, heads = 4": never,
        "layers = {low = 0, high = 4, step = 2}\n" + _RANGE % "layers = 3": never,
        "sigma = {low = 0.0, high = 0.1}\n" + _RANGE % "sigma = 0.05": never,
        _RANGE % "layers = 2" + "\n" + _CHOICES: "must be listed above",
    }  # fmt: skip
    for number, (space, wanted) in enumerate(spaces.items()):
        yield f"condition {number}", text(space=space), wanted
    yield "when is text", text(space='lr = {low = 0.001, high = 0.1, when = "layers"}'), "lr.when"
    beside = text(space=_CHOICES + _RANGE % "layers = 2", more="[[enqueue]]\nlayers = 1\nlr = 0.05")
    yield "enqueued beside another", beside, "enqueue.0.lr: its condition"


def _times() -> Iterator[Fault]:
    for value in ("inf", "nan", "-0.0", "1e308", "1e12"):
        yield f"hours = {value}", _budget(f"hours = {value}"), "budget.hours: must be"
    for value in (
        '"24:00"',
        '"7:00"',
        '"07:00:00"',
        '"7am"',
        '""',
        '"\\n07:00"',
        "07:00:00",
        "7",
        '"0\u0667:\u0660\u0660"',
    ):
        yield f"until = {value}", _budget(f"until = {value}"), "budget.until: "


def _names() -> Iterator[Fault]:
    taken = ("compare", "corpus", "timeline", "a.finals", "a.full-1", "a.bracket-1-2", "night.toml", "night.json")
    odd = (".", "..", "-a", "_a", ".a", "a/b", "a\\\\b", "a b", "a" * 65, "x" * 5000, "A", "\u00e4", "a\\n", "a\\u0000",
           "", "~", "*", "{}", "%s", "a?b", "#")  # fmt: skip
    for name in (*taken, *odd):
        wanted = "is used by autotune itself" if name in taken else "cannot be a name"
        yield f"name {name[:20]!r}", _top(f'name = "{name}"'), wanted


def _base() -> Iterator[Fault]:
    lines = {
        "lrr = 1": "no setting", "lr = nan": "the base value nan", "lr = 1979-05-27": "base.lr",
        "lr = {a = 1}": "base.lr",
        "output = 3": "base.output", "lr = [0.02]": "base.lr", '"" = 1': "no setting", '"{}" = 1': 'setting "{}"',
        '"\\u001b[31m" = 1': "no setting", '"a\\nb" = 1': "no setting", 'layers = "many"': "base.layers",
        "output.dri = 1": "no setting", "data.num_evals = 1.5": "base.data.num_evals",
    }  # fmt: skip
    for line, wanted in lines.items():
        yield f"base {line!r}", text(base=line), wanted


def _algorithms() -> Iterator[Fault]:
    entries = {
        'sampler name = "TPE"': "no sampler", 'sampler name = ""': "no sampler", "sampler seed = 3": "no parameter",
        "sampler self = 1": "no parameter", 'sampler "{x}" = 1': "{x}", 'sampler name = "grid"': "sampler: grid",
        'sampler name = "brute_force"': "sampler: brute_force", 'pruner name = "percentile"': "pruner",
        'sampler name = "nsga2"\npopulation_size = 0': "sampler.population_size",
        'sampler name = "qmc"\nqmc_type = "x"': "qmc",
        'pruner name = "threshold"\nupper = "a"': "pruner.upper", "pruner audit_frac = 2.0": "pruner.audit_frac",
        'pruner name = "hyperband"\nmin_resource = 0': "pruner.min_resource", 'pruner name = "wilcoxon"': "wilcoxon",
        'pruner name = "hyperband"\nmax_resource = "lots"': "pruner",
        'pruner name = "patient"\npatience = -1': "pruner",
        'pruner name = "median"\nn_startup_trials = -1': "pruner.n_startup_trials",
        "pruner warmup_frac = 2.0": "pruner",
    }  # fmt: skip
    for entry, wanted in entries.items():
        table, _, body = entry.partition(" ")
        yield entry, text(more=f"[{table}]\n{body}"), wanted


def _further() -> Iterator[Fault]:
    lines = {
        'storage = "not a url"': "storage: must be a URL", 'storage = "sqlite:///x.db"': "storage: must be a URL",
        'storage = "mysql://me:secret@host/x"': "storage: must be a URL", 'objective = "fastest"': "objective",
        'warm_start = ["runs/none"]': "there is no study", 'warm_start = ["a\\u0000b"]': "there is no study",
        f'warm_start = ["{"x" * 5000}"]': "there is no study", 'warm_start = [""]': "there is no study",
        'trackers = ["tensorboard", "tensorboard"]': "is named twice", 'trackers = [""]': "no tracker",
        'trackers = ["a.b"]': "no tracker", "warm_start = [1]": "warm_start.0",
    }  # fmt: skip
    for line, wanted in lines.items():
        yield line[:60], _top(line), wanted
    for value in ("nan", "true", '"0.01"', "[0.01]", "5.0"):
        yield f"enqueued {value}", text(more=f"[[enqueue]]\nlr = {value}"), "enqueue.0.lr: "
    yield "enqueued nothing", text(more="[[enqueue]]"), "enqueue.0: names no setting"
    yield "the fourth enqueued", text(more="[[enqueue]]\nlr = 0.01\n" * 3 + "[[enqueue]]\nlr = 5.0"), "enqueue.3.lr"


def _toml() -> Iterator[Fault]:
    invalid = {
        "html": "<html>\n", "json": '{"name": "night"}', "yaml": "name: night\n", "nul": 'name = "a\0b"\n',
        "open text": 'name = "night\n', "open long text": 'name = """night\n', "bare text": f"name = {'x' * 100_000}\n",
        "control": 'name = "\x1b[2J"\n', "key twice": 'name = "a"\nname = "b"\n', "escape": 'name = "\\q"\n',
        "table twice": "[budget]\n[budget]\n", "date": "name = 2024-13-01\n", "surrogate": 'name = "\\ud800"\n',
        "merge": "<<<<<<< HEAD\n", "dotted": "a.b = 1\na = 2\n",
    }  # fmt: skip
    for name, content in invalid.items():
        yield f"toml {name}", content, "not valid TOML"
    yield "toml empty", "", "name: is missing"
    yield "toml list of budgets", "[[budget]]\ntokens = 1\n", "budget"
    yield "toml list of spaces", "[[space]]\nlr = 1\n", "space"
