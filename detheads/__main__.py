"""``python -m detheads``: the command line without the console script."""

from detheads.cli.main import main

if __name__ == "__main__":  # a process that this one spawns imports the file too
    main()
