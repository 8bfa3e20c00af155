"""Run the command line as `python -m okxcli`."""

from okxcli.cli import main

main()
