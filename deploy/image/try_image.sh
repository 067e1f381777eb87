#!/bin/sh
# Builds the image `cpu` of the Dockerfile and serves a photo with it, without a daemon and without a registry.
# Run as root on Debian, with buildah, debootstrap and curl:   deploy/image/try_image.sh [FOLDER]
#
# Debian's own Python replaces python:3.11-slim. It is installed in FOLDER (/var/tmp/segmentation-image), which needs
# 3 GB, and is kept there for the next run. PORT (8000) is the port on this machine. The build also uses PIP_CERT and
# /etc/pip.conf, if they exist.
set -eu

repository=$(cd "$(dirname "$0")/../.." && pwd)
work=${1:-/var/tmp/segmentation-image}
port=${PORT:-8000}
base=docker.io/library/python:3.11-slim
image=localhost/segmentation:cpu
container=
server=
mkdir -p "$work/root"

buildah() {
    command buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"
}

clean_up() {
    if [ -n "$server" ]; then kill -KILL "$server" 2> /dev/null || true; fi
    if [ -n "$container" ]; then buildah rm "$container" > /dev/null; fi
}

make_base() {
    if [ ! -x "$work/base/usr/bin/python" ]; then
        rm -rf "$work/base"
        debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates \
            bookworm "$work/base" > "$work/debootstrap.log"
        ln -s python3 "$work/base/usr/bin/python"
        rm -rf "$work"/base/var/cache/apt/archives/*.deb
    fi
    if [ -f "${PIP_CERT:-}" ]; then
        cp "$PIP_CERT" "$work/base/etc/ssl/certs/ca-certificates.crt"
    fi
    container=$(buildah from scratch)
    buildah copy --quiet "$container" "$work/base" / > /dev/null
    buildah commit --quiet --format docker "$container" "$base" > /dev/null
    buildah rm "$container" > /dev/null
    container=
}

build() {
    set --
    if [ -f /etc/pip.conf ]; then set -- --volume /etc/pip.conf:/etc/pip.conf:ro; fi
    # The OCI format has no health check, so the one in the Dockerfile would be lost.
    buildah build --isolation chroot --format docker --pull-never --target cpu "$@" \
        --tag "$image" "$repository" > "$work/build.log" 2>&1 || { tail -20 "$work/build.log"; exit 1; }
}

read_config() {
    buildah inspect --type image --format "{{$1}}" "$image"
}

# Run the image's command as its user, without capabilities, on a read-only root file system.
serve() {
    user=$(read_config .Docker.Config.User)
    # shellcheck disable=SC2046  # one word per variable
    exec unshare --mount --pid --fork --kill-child sh -euc '
        root=$1 mounted=$2 user=$3; shift 3
        mount --bind "$root" "$mounted"
        mount -t proc proc "$mounted/proc"
        mount --rbind /dev "$mounted/dev"
        mount -t tmpfs tmpfs "$mounted/tmp"
        mount -o remount,bind,ro "$mounted"
        exec chroot "$mounted" setpriv --reuid "$user" --regid "$user" --clear-groups --bounding-set=-all \
            --no-new-privs env -i --chdir=/srv "$@"' \
        sh "$1" "$work/root" "$user" $(read_config 'range .Docker.Config.Env}}{{.}} {{end') "SEG_PORT=$port" \
        python -m app
}

trap clean_up EXIT
buildah rmi --all --force > /dev/null 2>&1 || true # images of an earlier run
make_base
build
echo "health check: $(read_config .Docker.Config.Healthcheck.Test)"

container=$(buildah from --pull-never "$image")
serve "$(buildah mount "$container")" > "$work/serve.log" 2>&1 &
server=$!
curl --silent --fail --retry 120 --retry-delay 1 --retry-all-errors --output /dev/null \
    "http://127.0.0.1:$port/health/ready" || { cat "$work/serve.log"; exit 1; }
curl --silent --show-error --fail -F "file=@$repository/docs/images/cat.jpg" \
    "http://127.0.0.1:$port/v1/segment?format=rle" --output "$work/answer.json"
echo "answer: $(head -c 150 "$work/answer.json")..."

process=$(cat "/proc/$server/task/$server/children")
process=${process% }
echo "user: $(stat --format %u "/proc/$process")"
nsenter --target "$process" --mount --root sh -c 'touch /srv/file' 2> /dev/null || echo "root: read-only"
kill -TERM "$process"
status=0
wait "$server" || status=$?
server=
echo "exit status after SIGTERM: $status"
echo "size: $(buildah images --format '{{.Size}}' "$image"), the base $(buildah images --format '{{.Size}}' "$base")"
