"""`python -m dreamrun NAME` is the command `dreamrun NAME`."""

from dreamrun.cli import main

if __name__ == "__main__":
    main()
