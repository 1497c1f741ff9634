"""Command-line flags made from the settings classes, so that each setting is documented once."""

from __future__ import annotations

import ast
import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import MISSING, Field, fields
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from cytoseed.cli.console import MISUSED, exit_on_mistake, output_as
from cytoseed.learn.settings import RECIPES
from cytoseed.settings import UNITS, ModelConfig, flag_of

_LISTS = {"channels": "A,B", "region": "X,Y,W,H", "scale_range": "LOW,HIGH"}


ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="Name of a model (see `cytoseed models`) or its folder.")
]
AutoModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="Name of a model (see `cytoseed models`) or its folder. auto: nuclei-he for brightfield in colour, else "
        "nuclei.",
    ),
]
DataOption = Annotated[Path, typer.Option(help="Folder of images with instance masks: see docs/data.md.")]
DatasetOption = Annotated[list[str] | None, typer.Option(help="Use only this data set; can be repeated.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda (or cuda:1 for the second GPU) or mps.")]
FormatsOption = Annotated[
    str, typer.Option("--format", "-f", help="Formats to write, separated by commas: see `cytoseed formats`.")
]


_OUTPUT_FLAGS: Mapping[str, Any] = {
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")],
    "verbose": Annotated[bool, typer.Option("--verbose", "-v", help="Print details too, and where errors arose.")],
    "log_file": Annotated[Path | None, typer.Option(metavar="FILE", help="Append all messages to a file, with times.")],
    "json": Annotated[bool, typer.Option("--json", help="Print JSON in place of lines: see docs/command-line.md.")],
}


def output_flags(command: Callable[..., None], names: Sequence[str]) -> Callable[..., None]:
    """Add flags of `_OUTPUT_FLAGS` to a command, which say what it prints."""
    own = inspect.signature(command, eval_str=True).parameters.values()
    kind = inspect.Parameter.KEYWORD_ONLY
    flags = [
        inspect.Parameter(each, kind, default=None if each == "log_file" else False, annotation=_OUTPUT_FLAGS[each])
        for each in names
    ]
    every = [each.replace(kind=kind) for each in own] + [_in_panel(flag, "Messages") for flag in flags]

    @functools.wraps(command)
    def with_flags(**values: Any) -> None:
        wanted = {each: values.pop(each) for each in names}
        with ExitStack() as stack:
            with exit_on_mistake(MISUSED):
                stack.enter_context(output_as(**wanted))
            command(**values)

    with_flags.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    with_flags.__annotations__ = {each.name: each.annotation for each in every}
    return with_flags


def settings_flags(settings: type, panels: Mapping[str, tuple[str, ...]]) -> Callable[[Callable[..., None]], Any]:
    """Decorator of a command that adds a flag for each field of a settings class, in panels of `--help`.

    Field `min_size_px` becomes `--min-size`, in px (`expand_um` stays `--expand-um`); a tuple is one text, with commas.
    `panels` has the names of all options in order, by title. The command's parameter `given` becomes a dictionary of
    the fields that were given.
    """
    hints = get_type_hints(settings)
    texts = _documentation(settings)
    panel_of = {name: title for title, names in panels.items() for name in names}
    order = list(panel_of)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        flags = {entry.name: _flag(settings, entry, hints[entry.name], texts) for entry in fields(settings)}
        own = dict(inspect.signature(command, eval_str=True).parameters)
        del own["given"]
        every = [_in_panel(entry, panel_of.get(name)) for name, entry in {**own, **flags}.items()]
        every.sort(key=lambda entry: order.index(entry.name) if entry.name in order else -1)

        @functools.wraps(command)
        def with_flags(**values: Any) -> None:
            given = {name: values.pop(name) for name in flags}
            given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
            command(**values, given={name: value for name, value in given.items() if value is not None})

        with_flags.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
        with_flags.__annotations__ = {entry.name: entry.annotation for entry in every}
        return with_flags

    return decorate


def _in_panel(parameter: inspect.Parameter, title: str | None) -> inspect.Parameter:
    """Copy of a parameter whose option is in a panel."""
    kind, option = get_args(parameter.annotation)
    option = copy.copy(option)
    option.rich_help_panel = title
    return parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, option])


def _default(settings: type, entry: Field[Any]) -> str:
    """Default of a field as text, and those of other training recipes where they differ."""
    if isinstance(entry.default, bool):
        return "on" if entry.default else "off"
    default = "" if entry.default in (None, (), MISSING) else str(entry.default)
    others = {name: str(getattr(recipe, entry.name)) for name, recipe in RECIPES.items() if settings is type(recipe)}
    return "; ".join([default, *(f"{name} {value}" for name, value in others.items() if value != default)])


def _flag(settings: type, entry: Field[Any], hint: Any, texts: Mapping[str, str]) -> inspect.Parameter:
    """Parameter from which typer makes a flag; a field without documentation is a setting of the model."""
    flag = flag_of(entry.name)
    spelling = f"{flag}/--no-{flag[2:]}" if hint is bool else flag
    text, default = texts.get(entry.name), _default(settings, entry)
    if text is None:
        text, default = _documentation(ModelConfig)[entry.name], "the model's"
    is_list, is_names = get_origin(hint) is tuple, hint == tuple[str, ...]
    option = typer.Option(
        spelling,
        help=text,
        metavar=UNITS.get(entry.name.rpartition("_")[2]) or _LISTS.get(entry.name),
        show_default=default or False,
        callback=_split_of(get_args(hint)[0]) if is_list and not is_names else None,
    )
    # names may have commas in them: those who know the names split the text
    annotation: Any = Annotated[list[str] if is_names else str if is_list else hint, option]
    return inspect.Parameter(entry.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _split_of(kind: type[int] | type[float] | type[str]) -> Callable[[str | None], tuple[Any, ...] | None]:
    """Make the callback that splits a string at commas, for fields that are tuples."""

    def split(value: str | None) -> tuple[Any, ...] | None:
        try:
            return None if value is None else tuple(kind(part.strip()) for part in value.split(",") if part.strip())
        except ValueError:
            what = "whole numbers" if kind is int else "numbers"
            raise typer.BadParameter(f"{value!r} is not a list of {what}; put commas between") from None

    return split


@functools.cache
def _documentation(settings: type) -> dict[str, str]:
    """Documentation strings below the fields of a class."""
    (definition,) = ast.parse(inspect.getsource(settings)).body
    found = {}
    for statement, after in pairwise(getattr(definition, "body", [])):
        match statement, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split()).replace("`", "")
    return found
