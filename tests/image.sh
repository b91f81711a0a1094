#!/usr/bin/env bash
# Build deploy/Dockerfile without a registry of images, and run a sweep in what it makes; `make image-test` calls this.
# The base image is Debian bookworm with Python 3.11, made here under the Dockerfile's name for its own. Needs root,
# buildah and debootstrap, some 20 GB of disk and a package index. IMAGE_OPTIONS are further options of `buildah bud`,
# such as --volume for pip's configuration; FOLDER holds what is made, and is removed.
set -euo pipefail
cd "$(dirname "$0")/.."
FOLDER=${FOLDER:-$(mktemp -d)}
python=$(sed -n 's/^ARG PYTHON=//p' deploy/Dockerfile)
read -ra options <<<"${IMAGE_OPTIONS:-}"
store=(--root "$FOLDER/storage" --runroot "$FOLDER/run" --storage-driver overlay)
trap 'umount "$FOLDER/storage/overlay" 2>/dev/null; rm -rf "$FOLDER"' EXIT

SECONDS=0
done_in() { echo "$1: $SECONDS s"; SECONDS=0; }

debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$FOLDER/base" >"$FOLDER/log"
ln -s /usr/bin/python3 "$FOLDER/base/usr/local/bin/python"
container=$(buildah "${store[@]}" from scratch)
buildah "${store[@]}" add --quiet "$container" "$FOLDER/base" / >>"$FOLDER/log"
buildah "${store[@]}" commit --quiet --rm "$container" "docker.io/library/python:$python" >>"$FOLDER/log"
rm -rf "$FOLDER/base"
done_in "base image"

for target in build cpu cuda; do
    buildah "${store[@]}" bud --isolation chroot --pull-never --layers --file deploy/Dockerfile --target "$target" \
        --tag "eman:$target" "${options[@]}" . >>"$FOLDER/log" 2>&1 || { tail -30 "$FOLDER/log" >&2; exit 1; }
    done_in "stage $target"
done
buildah "${store[@]}" images --format '{{.Name}}:{{.Tag}} {{.Size}}'

container=$(buildah "${store[@]}" from "localhost/eman:cpu")
inside() { buildah "${store[@]}" run --isolation chroot --user 1000:1000 --env EMAN_HOME=/tmp/eman "$container" -- "$@"; }
inside id --user
inside sh -c '! touch /opt/eman/file 2>/dev/null' # its own programs are not its to change
inside eman doctor
done_in "eman doctor"
inside eman sweep grid --method moco --scheme bn,eman --profile smoke
done_in "a smoke sweep"
