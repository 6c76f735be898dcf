"""``python -m detheads``: the command line without the console script."""

from detheads.cli.main import main

main()
