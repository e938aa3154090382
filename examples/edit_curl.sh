#!/bin/sh
# Restore one photo: examples/edit_curl.sh rainy.jpg "remove the rain" restored.png
set -eu
curl --fail-with-body --silent --show-error --max-time 120 \
  -F "image=@$1" -F "instruction=$2" \
  "${DIFFPLUGIN_URL:-http://127.0.0.1:8000}/v1/edit" --output "$3"
echo "wrote $3"
