"""The program `cytoseed`. Commands import heavy packages when they run, so `--help` is fast."""

from __future__ import annotations

import inspect
import sys
from typing import Annotated

import typer

from cytoseed import __version__
from cytoseed.cli.console import FAILED, print_error
from cytoseed.cli.convert_command import convert, formats
from cytoseed.cli.datasets_command import datasets_app
from cytoseed.cli.doctor_command import doctor
from cytoseed.cli.evaluate_command import evaluate
from cytoseed.cli.export_command import export
from cytoseed.cli.flags import output_flags
from cytoseed.cli.info_command import info, models
from cytoseed.cli.measure_command import measure
from cytoseed.cli.report_command import report
from cytoseed.cli.samples_command import samples
from cytoseed.cli.segment_command import demo, merge, segment
from cytoseed.cli.streams import close_streams, guard_streams, stop_on_signals
from cytoseed.cli.train_command import train, tune
from cytoseed.cli.view_command import view

app = typer.Typer(
    name="cytoseed",
    help="Find every nucleus in microscopy images.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_show_locals=False,
)
_PANELS = {
    "Segment": (segment, merge, info, models, demo, samples, doctor),
    "Results and other programs": (view, report, measure, convert, formats, export),
    "Train and evaluate": (train, tune, evaluate),
}
_MESSAGES = ("quiet", "verbose", "log_file")
_OUTPUT_FLAGS = {
    **dict.fromkeys((merge, demo, samples, report, measure, convert, export, train, tune), _MESSAGES),
    **dict.fromkeys((segment, evaluate), (*_MESSAGES, "json")),
    **dict.fromkeys((info, models, doctor), ("json",)),
    **dict.fromkeys((formats, view), ()),
}
for _title, _commands in _PANELS.items():
    for _command in _commands:
        _paragraphs = str(inspect.getdoc(_command)).split("\n\n")
        _help = "\n\n".join(" ".join(paragraph.split()) for paragraph in _paragraphs)  # typer keeps line breaks
        app.command(help=_help, rich_help_panel=_title)(output_flags(_command, _OUTPUT_FLAGS[_command]))
app.add_typer(datasets_app, rich_help_panel="Train and evaluate")


def main() -> None:
    """Run the command line, and exit."""
    guard_streams()
    stop_on_signals()
    try:
        app()
    except SystemExit as done:
        lost = close_streams()
        if lost is not None:
            print_error(f"the output could not be written ({lost.strerror})")
        sys.exit(done.code or (FAILED if lost else 0))


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cytoseed {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Find every nucleus in microscopy images."""
