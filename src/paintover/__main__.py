"""`python -m paintover` is the command line."""

from paintover.cli import main

main()
