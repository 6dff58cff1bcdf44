"""Run the command line with `python -m kdbuild`."""

from kdbuild.cli import main

if __name__ == "__main__":
    main()
