#!/usr/bin/env bash
# run.sh --set NAME [--concurrency N] [--regex R] [--exclude R] [--list] [--guest] [--prepare] [--out FILE]
# run.sh --venv: only make the venv (it has python-openstackclient too) and print where it is.
# The cloud comes from OS_AUTH_URL OS_USERNAME OS_PASSWORD OS_PROJECT_NAME
# OS_USER_DOMAIN_NAME OS_PROJECT_DOMAIN_NAME (an administrator's).
# YARDSTICK_HOME (default: ~/.cache/yardstick) keeps the venv; YARDSTICK_WORKSPACE (default: in it) the tempest workspace,
# of which each run at the same time needs its own.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
home=${YARDSTICK_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/yardstick}
venv=$home/venv ws=${YARDSTICK_WORKSPACE:-$home/workspace}
mkdir -p "$home"
exec 9>"$home/lock"
flock 9  # one makes it, who else comes waits
if ! cmp -s "$here/requirements.txt" "$venv/.installed"; then
    [ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/pip" install -qq --disable-pip-version-check -r "$here/requirements.txt"
    cp "$here/requirements.txt" "$venv/.installed"
fi
exec 9>&-
[ "${1:-}" != --venv ] || { echo "$venv"; exit 0; }
: "${OS_AUTH_URL:?}" "${OS_USERNAME:?}" "${OS_PASSWORD:?}" "${OS_PROJECT_NAME:?}"
export OS_USER_DOMAIN_NAME=${OS_USER_DOMAIN_NAME:-Default} OS_PROJECT_DOMAIN_NAME=${OS_PROJECT_DOMAIN_NAME:-Default}
export OS_IDENTITY_API_VERSION=3

export PATH=$venv/bin:$PATH

conf=() run=()
while [ $# -gt 0 ]; do
    case $1 in
        --guest|--prepare) conf+=("$1") ;;
        *) run+=("$1") ;;
    esac
    shift
done
# By hand and not with "tempest init", which also registers the workspace in ~/.tempest.
mkdir -p "$ws/etc" "$ws/logs" "$ws/tempest_lock"
tempest_dir=$(python -c 'import importlib.util as u; print(u.find_spec("tempest").submodule_search_locations[0])')
printf '[DEFAULT]\ntest_path=%s/test_discover\ntop_dir=%s\ngroup_regex=([^\\.]*\\.)*\n' \
    "$tempest_dir" "$tempest_dir" >"$ws/.stestr.conf"
[ -d "$ws/.stestr" ] || (cd "$ws" && stestr init)
python "$here/mkconf.py" --workspace "$ws" --features "${YARDSTICK_FEATURES:-$here/features.conf}" ${conf[@]+"${conf[@]}"}
exec python "$here/runset.py" --workspace "$ws" ${run[@]+"${run[@]}"}
