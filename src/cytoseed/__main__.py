"""`python -m cytoseed` is the command line."""

from cytoseed.apps.cli import main

if __name__ == "__main__":
    main()
