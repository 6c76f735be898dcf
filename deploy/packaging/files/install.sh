#!/bin/sh
# Installs this package into venv/ beside this file, without a network and without root. Again: nothing is done where it
# is installed already. With --unit (as root) the service is installed and started, too.
set -eu
umask 022 # the service is of another user
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
python=${PYTHON:-python@PYTHON@}
service=@SERVICE@

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

unit=no
for word in "$@"; do
  case $word in
    --unit) unit=yes ;;
    *)
      printf 'usage: [PYTHON=python@PYTHON@] %s [--unit]\n' "$0" >&2
      exit 2
      ;;
  esac
done

command -v "$python" >/dev/null || fail "there is no $python, which this package is for (@SYSTEM@); set PYTHON to one."
"$python" "$here/check.py"

plain=yes # a folder that may stand in a unit
case $here in
  *[!A-Za-z0-9._/-]*) plain=no ;;
esac
if [ "$unit" = yes ]; then
  [ "$(id -u)" = 0 ] || fail "--unit needs root; without it everything but the service is installed."
  [ $plain = yes ] || fail "$here has characters that a unit may not have; unpack the archive in /opt."
  case $here in
    /home/* | /root/* | /run/user/*) fail "a service may not look into $here; unpack the archive in /opt." ;;
  esac
fi

# What is installed is known by its requirements, which name every wheel's digest.
stamp=$here/venv/installed-requirements.txt
if cmp -s "$here/requirements.txt" "$stamp" && "$here/venv/bin/detheads" --version >/dev/null 2>&1; then
  printf '%s is installed already\n' "$here/venv"
else
  rm -rf "$here/venv"
  "$python" -m venv @VENV@ "$here/venv" || fail "$python has no venv; install the package python@PYTHON@-venv."
  "$here/venv/bin/python" -m pip --isolated --disable-pip-version-check install --quiet --no-cache-dir --no-index \
    --find-links "$here/wheels" --require-hashes --requirement "$here/requirements.txt"
  "$here/venv/bin/detheads" --version
  cp "$here/requirements.txt" "$stamp"
fi

if [ $plain = yes ]; then
  sed "s|@PREFIX@|$here|g" "$here/service.in" >"$here/$service.service"
fi
if [ "$unit" = yes ]; then
  install -m 644 "$here/$service.service" "/etc/systemd/system/$service.service"
  systemctl daemon-reload
  systemctl enable "$service"
  systemctl restart "$service"
  printf 'serving; its words: journalctl -u %s\n' "$service"
else
  printf 'installed; next: ./prove.sh, and as root ./install.sh --unit for the service\n'
fi
