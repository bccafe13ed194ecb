"""Hand over to the command line of graphpool; Ctrl-C ends it with 130 even while it loads."""

import sys

if __name__ == "__main__":
    try:
        from scheduler.cli import main

        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
