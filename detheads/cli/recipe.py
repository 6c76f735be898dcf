"""``detheads recipe``: trainings as files."""

from typing import Annotated

import typer
from rich.console import Console

from detheads.cli.output import JsonFlag, emit, table
from detheads.cli.recipe_ladder import ladder
from detheads.cli.recipe_run import run
from detheads.training.recipes.recipe import Recipe, library, read_recipe

app = typer.Typer(help="Trainings as files; the ladder of the published head.", no_args_is_help=True)

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A name of 'detheads recipe list', or a file that ends in .toml.")
]


@app.command("list")
def list_recipes(as_json: JsonFlag = False) -> None:
    """The recipes of the package; 'detheads train --recipe NAME' follows one."""
    recipes = list(library().values())

    def render(console: Console) -> None:
        cells = [
            (each.name, each.step.number if each.step else "", each.epochs, _published(each), each.about)
            for each in recipes
        ]
        console.print(table(("recipe", "step", "epochs", "published AP", ""), cells))

    emit([described(each) for each in recipes], as_json, render)


@app.command()
def show(
    recipe: RecipeArgument,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="With the value of every option, those at their defaults too.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """One recipe as a file, to be kept or changed: 'detheads recipe show NAME > mine.toml'."""
    found = read_recipe(recipe)
    emit(
        described(found),
        as_json,
        lambda console: console.print(*found.to_toml(resolved=resolved).splitlines(), sep="\n"),
    )


def described(recipe: Recipe) -> dict[str, object]:
    """A recipe as JSON, each stage with all its options."""
    from dataclasses import asdict

    values = recipe.model_dump(exclude={"stages"})
    return values | {"stages": [{"name": stage.name, **asdict(stage.config)} for stage in recipe.stages]}


def _published(recipe: Recipe) -> str:
    said = recipe.published
    if said is None:
        return ""
    more = "".join(f", {value} {what}" for what, value in (("EMA", said.AP_averaged), ("soft", said.AP_soft)) if value)
    return f"{said.AP}{more}"


app.command()(run)
app.command()(ladder)
