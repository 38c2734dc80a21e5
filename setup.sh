#!/usr/bin/env bash
# Sets up .venv with everything that is needed; a second call finds nothing to do and takes no time.
# Procgen, the real CoinRun, is built for Linux on x86-64 alone. Elsewhere, such as on macOS, it is left out.
#
#   ./setup.sh                      Python 3.11 or 3.12, whichever is found (or PYTHON=/path/to/python)
#   ./setup.sh --torch-index URL    another torch build, from that package index (used for torch alone)
#   ./setup.sh --browser            also Chromium and npm, with apt-get, which the tests of the pages need
#   ./setup.sh --rl                 also Stable-Baselines3, for agents (scripts/train_agent.py)
set -euo pipefail
cd "$(dirname "$0")"

TORCH="torch==2.13.0"
torch_index=""
browser=""
rl=""

fail() { echo "error: $*" >&2; exit 2; }

while [ $# -gt 0 ]; do
  case "$1" in
    --torch-index) [ $# -ge 2 ] || fail "--torch-index needs a URL"; torch_index="$2"; shift 2 ;;
    --browser) browser=yes; shift ;;
    --rl) rl=yes; shift ;;
    -h | --help) sed -n '2,8p' "$0" | sed 's/^# \{0,1\}//'; exit 0 ;;
    *) fail "unknown option $1 (see ./setup.sh --help)" ;;
  esac
done

missing=""
if [ -n "$browser" ]; then
  command -v chromium >/dev/null || command -v chromium-browser >/dev/null || missing="chromium"
  command -v npm >/dev/null || missing="$missing npm" # it downloads the runtime of static pages
fi
if [ -n "$missing" ]; then
  command -v apt-get >/dev/null || fail "--browser uses apt-get, which is not there: install yourself: $missing"
  root=""
  if [ "$(id -u)" != 0 ]; then
    root="sudo"
    command -v sudo >/dev/null || fail "--browser needs root for apt-get, and there is no sudo. As root: apt-get install $missing"
  fi
  echo "installing $missing"
  $root apt-get update -qq || fail "apt-get update failed; its message stands above. Is there a network?"
  # shellcheck disable=SC2086 # several packages
  DEBIAN_FRONTEND=noninteractive $root apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
    fail "apt-get install $missing failed; its message stands above"
fi

# What the environment was made from. Without --torch-index, the torch that is there stays.
stamp=.venv/.set-up
wanted=$(cat setup.sh pyproject.toml requirements.txt requirements-procgen.txt | cksum)
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
install() { pip install --quiet "$@" || fail "installing failed (pip install $*); its message stands above. Is there a network?"; }
install_rl() {
  local name version
  IFS='=' read -r name _ version < <(grep -v '^#' requirements-rl.txt)
  ls -d .venv/lib/python3*/site-packages/"${name//-/_}-$version".dist-info >/dev/null 2>&1 && return
  echo "installing Stable-Baselines3"
  install --no-deps -r requirements-rl.txt
}
if [ -x .venv/bin/python ] && [ "$(cat $stamp 2>/dev/null)" = "$wanted" ] && [ -z "$torch_index" ]; then
  [ -z "$rl" ] || install_rl
  exit 0
fi

supported() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; }

if ! { [ -x .venv/bin/python ] && supported .venv/bin/python; }; then
  python=""
  for candidate in ${PYTHON:-python3.12 python3.11 python3 python}; do
    if supported "$candidate"; then python="$candidate"; break; fi
  done
  [ -n "$python" ] || fail "Python 3.11 or 3.12 is needed, and ${PYTHON:-python3} is $("${PYTHON:-python3}" --version 2>&1 || true). Install one of them, or name it: PYTHON=/path/to/python3.11 ./setup.sh"
  echo "making .venv with $("$python" --version)"
  rm -rf .venv
  "$python" -m venv .venv || fail "could not make .venv; on Debian and Ubuntu: apt-get install python3-venv"
fi

rm -f "$stamp"

echo "installing $TORCH (1 of 3)"
if [ -n "$torch_index" ]; then
  install --force-reinstall --no-deps --index-url "$torch_index" "$TORCH"
fi
install "$TORCH"
echo "installing the libraries (2 of 3)"
install -r requirements.txt
if [ "$(uname -s) $(uname -m)" = "Linux x86_64" ]; then
  echo "installing Procgen (3 of 3)"
  install --no-deps -r requirements-procgen.txt
else
  echo "without Procgen (3 of 3): there is no build of it for $(uname -s) on $(uname -m), so CoinRun and its relatives are"
  echo "  played as dreams, but not collected, nor played beside the dream. Dreamrun has been tested on Linux only."
fi
install --no-deps --no-build-isolation --editable .
[ -z "$rl" ] || install_rl
echo "$wanted" >"$stamp"
echo "set up: $(.venv/bin/python -c 'import torch; print("torch", torch.__version__, "with" if torch.cuda.is_available() else "without", "a GPU")')"
