"""The first and the last moment of the command line: Ctrl-C before anything is loaded, --debug, no permission."""

import os
import signal
import subprocess
import sys
import time

import pytest

OKX = [sys.executable, "-m", "okxcli"]


def environment(tmp_path):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OKX_", "PG", "XDG_"))}
    return clean | {"HOME": str(tmp_path)}


#: Says when `okx` has taken Ctrl-C over.
_SAYING = """
import signal
from okxcli.start import main
taken = signal.signal
def told(number, handler):
    taken(number, handler)
    if handler is signal.SIG_DFL and number == signal.SIGINT:
        print(flush=True)
signal.signal = told
main()
"""


@pytest.mark.parametrize("step", range(12))
def test_an_interrupt_while_it_loads_is_quiet(tmp_path, step):
    """At any moment of the start: no traceback, and it ends by it."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SAYING, "simulate", "BTC-USDT"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(tmp_path),
    )  # fmt: skip
    process.stdout.readline()
    time.sleep(0.025 * step)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert (process.returncode in (-signal.SIGINT, 130), told) == (True, b"")


def test_an_interrupt_waits_for_what_a_command_loads(tmp_path):
    """A library in C may take it badly in the middle of its load: it comes afterwards."""
    (tmp_path / "late.py").write_text("import os\nos.kill(os.getpid(), 2)\nprint('loaded', flush=True)\n")
    code = "from okxcli import cli, start\ndef command():\n import late, time\n time.sleep(30)\n"
    code += "cli.main = command\nstart.main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=20, check=False,
        env=environment(tmp_path) | {"PYTHONPATH": f"{tmp_path}:{os.getcwd()}"},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, b"loaded\n", b"")


def test_who_is_deaf_to_interrupts_stays_so(tmp_path):
    """`command &` in a script ignores Ctrl-C, and so do we."""
    code = "import signal; signal.signal(2, signal.SIG_IGN); from okxcli import cli, start; cli.main = lambda: print("
    code += "signal.getsignal(2) is signal.SIG_IGN); start.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment(tmp_path))
    assert done.stdout == b"True\n"


@pytest.mark.parametrize(("command", "code"), [(("history", "BTC-USDT"), 2), (("status",), 69), (("read", "x"), 2)])
def test_debug_shows_where_and_changes_nothing_else(tmp_path, command, code):
    """A traceback above the line that is told anyway, and the same exit status."""
    plain, debug = (
        subprocess.run([*OKX, *more, *command], capture_output=True, text=True, env=environment(tmp_path), check=False)
        for more in ((), ("--debug",))
    )
    assert plain.returncode == debug.returncode == code
    assert debug.stderr.endswith(plain.stderr)


@pytest.mark.skipif(os.geteuid() == 0 and not os.path.exists("/usr/bin/setpriv"), reason="root may enter anywhere")
def test_a_folder_that_may_not_be_entered(tmp_path):
    """Every command that wants the embedded database says so (69) and names the remedy."""
    base = tmp_path / ".local" / "share" / "okx"
    base.mkdir(parents=True)
    base.chmod(0)
    bound = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    try:
        for command in (("status",), ("gaps", "BTC-USDT"), ("read", "trades", "BTC-USDT"), ("db", "status")):
            done = subprocess.run(
                [*bound, *OKX, *command], capture_output=True, text=True, env=environment(tmp_path), check=False
            )
            assert done.returncode == 69, (command, done)
            assert f"cannot use {base}: Permission denied. Name another place by XDG_DATA_HOME" in done.stderr
    finally:
        base.chmod(0o700)
