#!/usr/bin/env bash
# tools/environment.sh FOLDER: the Python environment of the Makefile.
# It is made once, and brought up to date when settings.ini or constraints.txt change (its stamp holds their checksum).
# A folder with Python in it but without our stamp is the reader's own environment: it is used as it is, and never touched.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}
stamp=$venv/.povid-stamp
want=$(cat settings.ini constraints.txt setup.py | cksum)

usable() { "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; }

find_python() {   # python3.11 first: the version that everything here was measured with
    local name path
    for name in python3.11 python3.12 python3.13 python3 python; do
        while read -r path; do
            if usable "$path"; then echo "$path"; return; fi
        done < <(type -ap "$name")
    done
}

if [ -x "$venv/bin/python" ] && [ ! -e "$stamp" ]; then
    echo "Using the environment in $venv as it is."
    exit
fi
if [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then exit; fi

python=${PYTHON:-$(find_python)}
if [ -z "$python" ] || ! usable "$python"; then
    echo "No usable Python: saw '${PYTHON:-none on PATH}', expected Python 3.11, 3.12 or 3.13 with venv." \
         "Install Python 3.11, or name one: make test PYTHON=/path/to/python3.11" >&2
    exit 1
fi

echo "Making $venv with $("$python" --version) and installing the packages (about 2 GB, 2 to 5 minutes) ..."
mkdir -p "$venv"
echo "unfinished" > "$stamp"
"$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --editable ".[dev]" --constraint constraints.txt
echo "$want" > "$stamp"
