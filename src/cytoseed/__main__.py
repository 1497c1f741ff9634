"""`python -m cytoseed` is the command line."""

from cytoseed.cli.main import main

if __name__ == "__main__":
    main()
