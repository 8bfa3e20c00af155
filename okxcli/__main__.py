"""Run the command line as `python -m okxcli`."""

from okxcli.start import main

main()
