"""`python -m poprep_cli` is `poprep`."""

from poprep_cli.cli.main import main

if __name__ == "__main__":
    main()
