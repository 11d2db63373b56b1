"""The same as the command `coca`: `python -m coca`, or `torchrun -m coca` for several processes."""

from coca.cli.app import main

if __name__ == "__main__":
    main()
