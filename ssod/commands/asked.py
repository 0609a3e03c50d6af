"""What a command line says of a config: words, a recipe, and options that are short for keys; declared in one place.

A command that begins with a config takes all of it as its ``**said``, and makes one ``Asked`` of it (``of_a_config``).
``--device``, ``--seed`` and ``--set`` are ``KEY=VALUE`` under another name. ``--batch`` and ``--epochs`` are known only
once the config is merged: see ``ssod.commands.pace``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ssod.commands import options as option
from ssod.commands.ending import speaks, told_once_a_machine
from ssod.utils.errors import SsodError

if TYPE_CHECKING:
    from ssod.config import Config

RECIPE = ("method", "detector", "data", "percent", "fold")
# Which keys of a config an option stands for; a key may be given in one way.
STANDS_FOR = {
    "percent": "data.split.percent",
    "fold": "data.split.fold",
    "device": "train.device",
    "seed": "train.seed",
    "epochs": "train.steps",
    "batch": "train.batch",
}


@dataclass(frozen=True)
class Asked:
    """Words and options of a command line that say what its config is; None = not given."""

    words: option.Words = None
    method: option.RecipeMethod = None
    detector: option.RecipeDetector = None
    data: option.RecipeData = None
    percent: option.Percent = None
    fold: option.Fold = None
    device: option.Device = None
    seed: option.Seed = None
    epochs: option.Epochs = None
    batch: option.StepBatch = None
    set: option.Set = None

    def refuse_options(self, other: str) -> None:
        """Refuse all options beside ``other``, which is about no config in particular.

        Raises:
            SsodError: code 2.
        """
        given = [key.name for key in fields(self) if key.name != "words" and getattr(self, key.name) is not None]
        if given:
            raise SsodError(
                "command line", f"--{given[0]}", f"has no effect beside {other}", "leave one of the two out"
            )

    def load(self, say: Callable[[str], None] = print) -> Config:
        """Return the config that was asked for.

        Args:
            say: gets a line of what ``--batch`` and ``--epochs`` come to, in the first process of a job.

        Raises:
            SsodError: code 2; a key that is given in two ways, or what ``ssod.config.load`` refuses. With ``--epochs``
                what is wrong with the labelled images, too.
        """
        from ssod.commands.pace import Pace
        from ssod.config import load_words

        def settle(tree: dict[str, Any], origins: dict[str, str]) -> None:
            for line in Pace(self.epochs, self.batch).settle(tree, origins):
                if speaks():
                    say(line)

        named = {key: getattr(self, key) for key in RECIPE}
        try:
            return load_words(self.words or [], named, self.changes(), settle)
        except SsodError as error:
            raise told_once_a_machine(error) from None

    def changes(self) -> list[str]:
        """Return what ``--set``, ``--device`` and ``--seed`` say, as ``KEY=VALUE``.

        Raises:
            SsodError: code 2, a key that is given in two ways, by any of the options.
        """
        ways = {f"--{key}": [STANDS_FOR[key]] for key in STANDS_FOR if getattr(self, key) is not None}
        refuse_twice(self.words or (), ways | {"--set": [key for text in self.set or () for key in keys_of(text)]})
        return once((), self.set, {STANDS_FOR[key]: getattr(self, key) for key in ("device", "seed")})


def once(words: Sequence[str], sets: Sequence[str] | None, options: Mapping[str, Any]) -> list[str]:
    """Return what ``--set`` and options that are short for keys say, as ``KEY=VALUE``.

    Args:
        words: the bare words of the command line.
        sets: those of ``--set``.
        options: dotted key -> value, None where its option was not given. Its option is named as the key's last part.

    Raises:
        SsodError: code 2, a key that is given in two ways: nothing would say which of them counts.
    """
    given = {key: value for key, value in options.items() if value is not None}
    ways = {f"--{key.rpartition('.')[2]}": [key] for key in given}
    refuse_twice(words, ways | {"--set": [key for text in sets or () for key in keys_of(text)]})
    return [*(sets or ()), *(f"{key}={value}" for key, value in given.items())]


def refuse_twice(words: Sequence[str], ways: Mapping[str, Sequence[str]]) -> None:
    """Refuse a key that is given in two ways.

    Args:
        words: the bare words of the command line.
        ways: option -> the dotted keys that it gives.

    Raises:
        SsodError: code 2.
    """
    seen = {key: text for text in words for key in keys_of(text)}
    for way, keys in ways.items():
        for key in keys:
            other = next((k for k in seen if f"{k}.".startswith(f"{key}.") or f"{key}.".startswith(f"{k}.")), None)
            if other is not None:
                raise SsodError("command line", way, f"'{seen[other]}' says {key}, too", "leave one of the two out")
        seen |= dict.fromkeys(keys, way)


def keys_of(text: str) -> Iterator[str]:
    """Yield the dotted keys that ``key.path=value`` sets; of a word of another form, a config file, none."""
    if "=" not in text:
        return
    from ssod.utils.merging import override

    tree: dict[str, Any] = {}
    try:
        override(tree, {}, text)
    except SsodError:
        return  # it is refused where it is read, with its reason
    yield from _leaves(tree, "")


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


Command = Callable[..., None]


def of_a_config(*short: str) -> Callable[[Command], Command]:
    """Declare the words and options of ``Asked`` for a command, which takes them as its ``**said``.

    Args:
        short: those of the options that are short for keys (``device`` to ``batch``) that have a meaning for the
            command; it refuses the others, as any option that it does not have. ``--set`` is every command's.
    """
    kind = inspect.Parameter.KEYWORD_ONLY
    names = ("words", *RECIPE, *short, "set")
    common = [inspect.Parameter(name, kind, default=None, annotation=TYPES[name]) for name in names]

    def declare(command: Command) -> Command:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[:-1]
        # type: ignore because a function's type says nothing of what `inspect`, and so typer, read first. A function
        # around the command would be one more frame between the command line and a loss (tools/call_stack.py).
        command.__signature__ = inspect.Signature([*common, *(one.replace(kind=kind) for one in own)])  # type: ignore
        return command

    return declare


TYPES = inspect.get_annotations(Asked, eval_str=True)
