"""Command-line flags made from the settings' classes, so that each setting is documented in one place."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, fields
from itertools import pairwise
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from cytoseed.settings import RECIPES, ModelConfig

_UNITS = {"um": "µm", "px": "px"}


def settings_flags(settings: type, leave_out: Iterable[str] = ()) -> Callable[[Callable[..., None]], Any]:
    """Give a command one flag for each field of a settings class.

    Parameters
    ----------
    settings
        A dataclass of `cytoseed.settings`. Field `min_size_px` becomes `--min-size`, in px, with the field's
        documentation as its help; a tuple is given as one text, with commas.
    leave_out
        Fields without a flag.

    Returns
    -------
    Callable
        Decorator of a command that takes what was given as the keyword argument `given`, a dictionary from
        field to value; flags that were not given are not in it.
    """
    kept = [entry for entry in fields(settings) if entry.name not in set(leave_out)]
    hints = get_type_hints(settings)
    described, of_model = _documentation(settings), _documentation(ModelConfig)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters.values()
        flags = [
            _flag(entry, _default(settings, entry), hints[entry.name], described.get(entry.name), of_model)
            for entry in kept
        ]
        names = [flag.name for flag in flags]

        @functools.wraps(command)
        def with_flags(**values: Any) -> None:
            given = {name: values.pop(name) for name in names}
            command(**values, given={name: value for name, value in given.items() if value is not None})

        signature = inspect.Signature([p for p in own if p.name != "given"] + flags)
        with_flags.__signature__ = signature  # type: ignore[attr-defined]
        with_flags.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        return with_flags

    return decorate


def _default(settings: type, entry: Field[Any]) -> str:
    """Show a field's default; where another recipe for training has another, that one as well."""
    default = "" if entry.default in (None, (), MISSING) else str(entry.default)
    others = {name: str(getattr(recipe, entry.name)) for name, recipe in RECIPES.items() if settings is type(recipe)}
    return "; ".join([default, *(f"{name} {value}" for name, value in others.items() if value != default)])


def _flag(
    entry: Field[Any], default: str, hint: Any, text: str | None, of_model: Mapping[str, str]
) -> inspect.Parameter:
    """Build the parameter, of default None, that typer makes a flag from; without a text the setting is the model's."""
    stem, _, unit = entry.name.rpartition("_")
    name = stem if unit in _UNITS else entry.name
    spelling = "--" + name.replace("_", "-")
    if hint is bool:
        spelling += f"/--no-{name.replace('_', '-')}"
    if text is None:
        text, default = of_model.get(entry.name, ""), "the model's"
    if _is_list(hint):
        text += " With commas between."
    option = typer.Option(
        spelling, help=text, metavar=_UNITS.get(unit), show_default=default or False, callback=_split_of(hint)
    )
    shown = str if _is_list(hint) else hint
    return inspect.Parameter(
        entry.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[shown | None, option]
    )


def _is_list(hint: Any) -> bool:
    return get_origin(hint) is tuple


def _split_of(hint: Any) -> Callable[[str | None], tuple[Any, ...] | None] | None:
    """Make the callback that takes a list with commas apart, where the field is one."""
    kinds = {int: "whole number", float: "number"}

    def split(value: str | None) -> tuple[Any, ...] | None:
        if value is None:
            return None
        parts = tuple(part.strip() for part in value.split(",") if part.strip())
        kind = get_args(hint)[0]
        try:
            return tuple(kind(part) for part in parts)
        except ValueError:
            raise typer.BadParameter(f"{value!r} is no list of {kinds[kind]}s with commas between") from None

    return split if _is_list(hint) else None


def _documentation(settings: type) -> dict[str, str]:
    """Documentation strings below the fields of a class; one that only refers to another class is left out."""
    body = ast.parse(textwrap.dedent(inspect.getsource(settings))).body[0]
    found = {}
    for statement, after in pairwise(getattr(body, "body", [])):
        match statement, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                if not text.startswith("See "):
                    found[name] = " ".join(text.split()).replace("`", "")
    return found
