"""Hand over to the command line of graphpool."""

from scheduler.cli import main

if __name__ == "__main__":
    main()
