"""``detheads data``: look at, check, convert, draw and generate datasets."""

import typer

app = typer.Typer(help="Look at, check, convert, draw and generate datasets.", no_args_is_help=True)
