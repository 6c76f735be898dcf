"""``detheads deploy``: run bundles, without torch; one file a verb."""

import typer

from detheads.cli.deploy.batch import batch
from detheads.cli.deploy.bench import bench
from detheads.cli.deploy.frigate import frigate, frigate_worker
from detheads.cli.deploy.info import info
from detheads.cli.deploy.kubernetes import kubernetes
from detheads.cli.deploy.package import package
from detheads.cli.deploy.run import run
from detheads.cli.deploy.serve import serve
from detheads.cli.deploy.triton import triton

app = typer.Typer(help="Run bundles, without torch.", no_args_is_help=True)
COMMANDS = (
    run,
    bench,
    serve,
    info,
    batch,
    triton,
    kubernetes,
    frigate,
    frigate_worker,
    package,
)
for command in COMMANDS:
    app.command()(command)
