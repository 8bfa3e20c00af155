# Sourced by the other scripts (POSIX sh). `okx_env run` or `okx_env dev` makes sure that ./.venv has what the lock file
# says (dev: the tools for tests as well) and leaves $PY, its Python, with its bin first in PATH.
#
# Order: uv, python3 -m venv, virtualenv. What was installed is stamped, so that the next start costs nothing; a file
# lock lets several scripts start at once. OKX_VENV names another folder, PYTHON another Python (3.11 or newer).

# Callers may have set these for their own reasons; here they would slow start-up or put packages somewhere else.
unset PYTHONDONTWRITEBYTECODE PYTHONUNBUFFERED PYTHONPATH PYTHONHOME PIP_USER PIP_TARGET PIP_PREFIX VIRTUAL_ENV

okx_root=$(cd "$(dirname "$0")/.." && pwd)
okx_venv=${OKX_VENV:-$okx_root/.venv}

okx_fail() {
    echo "okx: $1" >&2
    exit 69
}

# Print the first Python that is new enough.
okx_find_python() {
    for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

# What has been installed: the lock file $1, the project's own metadata and kernels, the place and the Python.
okx_sum() {
    {
        cat "$1" "$okx_root/pyproject.toml" "$okx_root/scripts/kernels.py" &&
            find "$okx_root/okxcli" -name '*.[ch]' -exec cat {} + && echo "$okx_root $okx_venv $okx_base"
    } | cksum
}

okx_with_uv() {
    command -v uv >/dev/null || return 1
    export UV_PYTHON_DOWNLOADS=never UV_NO_PROGRESS=1
    [ -x "$okx_venv/bin/python" ] || uv venv -q --python "$okx_base" "$okx_venv" || return 1
    uv pip install -q --python "$okx_venv/bin/python" --compile-bytecode --require-hashes -r "$1" &&
        uv pip install -q --python "$okx_venv/bin/python" --no-deps --no-build-isolation -e "$okx_root" && return
    echo "okx: uv could not (see above); trying pip" >&2
    return 1
}

okx_with_pip() {
    if ! "$okx_venv/bin/python" -m pip --version >/dev/null 2>&1; then
        rm -rf "$okx_venv"
        "$okx_base" -m venv "$okx_venv" >/dev/null 2>&1 ||
            { rm -rf "$okx_venv" && "$okx_base" -m virtualenv -q "$okx_venv" 2>/dev/null; } ||
            { rm -rf "$okx_venv" && virtualenv -q -p "$okx_base" "$okx_venv" 2>/dev/null; } ||
            okx_fail "$okx_base cannot make virtual environments. On Debian or Ubuntu: apt-get install python3-venv. Elsewhere: install uv or virtualenv"
    fi
    # pip reads its own configuration for the index; none is named here.
    set -- --quiet --disable-pip-version-check --no-input --require-hashes -r "$1"
    "$okx_venv/bin/python" -m pip install "$@" &&
        "$okx_venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
            --no-deps --no-build-isolation -e "$okx_root"
}

# okx_env run|dev
okx_env() {
    okx_base=$(okx_find_python) || okx_fail "needs Python 3.11 or newer; name one: PYTHON=/path/to/python3 $0"
    # A shim (pyenv) answers differently in other folders: take the Python behind it.
    okx_base=$("$okx_base" -c 'import sys; print(sys.executable)')
    okx_lock=$okx_root/requirements.lock
    [ "$1" = run ] || okx_lock=$okx_root/requirements-dev.lock
    okx_stamp=$okx_venv/.okx-$1
    # The descriptor holds the lock, not the process that asked for it: the end of this script ends it, however it ends.
    (: >>"$okx_venv.lock") 2>/dev/null || okx_fail "cannot write beside $okx_venv; name another folder: OKX_VENV=/path $0"
    exec 9>>"$okx_venv.lock"
    "$okx_base" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
    if [ "$(cat "$okx_stamp" 2>/dev/null)" != "$(okx_sum "$okx_lock")" ] || ! "$okx_venv/bin/python" -c '' 2>/dev/null; then
        echo "okx: setting up $okx_venv (only the first time)" >&2
        "$okx_venv/bin/python" -c '' 2>/dev/null || rm -rf "$okx_venv"
        okx_with_uv "$okx_lock" || okx_with_pip "$okx_lock" ||
            okx_fail "could not install what $okx_lock lists into $okx_venv (see above); does pip reach a package index?"
        # The tools come with all that a run needs.
        okx_sum "$okx_root/requirements.lock" >"$okx_venv/.okx-run"
        okx_sum "$okx_lock" >"$okx_stamp"
    fi
    exec 9>&-
    PY=$okx_venv/bin/python
    PATH=$okx_venv/bin:$PATH
    export PATH
}
