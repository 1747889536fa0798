#!/bin/sh
# Works until it is told to stop, and ends well.
set -eu
trap 'echo "stopped after $(ls queue | wc -l) jobs"; exit 0' USR1
echo "$1 $2, $WORK_MODE, as $(id -un) ($(id -u):$(id -g)) in $(pwd)"
touch queue/done /tmp/ready
while :; do sleep 0.1; done
