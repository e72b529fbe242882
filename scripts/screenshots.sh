#!/bin/bash
# Pages of the shipped model in a browser: screenshots.sh OUT [IMAGES]. Writes OUT/NAME.html and OUT/NAME-WIDTH-SCHEME.png at 390 and
# 1280 pixels, in light and dark, HEIGHT (3000) pixels high. IMAGES: a folder with one folder per class, for eval's page and check-equal's.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: scripts/screenshots.sh OUT [IMAGES]}
images=${2:-}
cli=${VMAMBA_CLI:-build/cpu/vmamba-cli}
browser=${BROWSER:-chromium}
mkdir -p "$out"
command -v "$browser" > /dev/null || { echo "screenshots.sh: no $browser: apt-get install chromium, or set BROWSER" >&2; exit 2; }

pages=(look check)
"$cli" -q look tests/data/chelsea.png --device cpu --report "$out/look.html" --png "$out/look.png" > /dev/null
if [ -n "$images" ]; then
  pages+=(eval)
  "$cli" -q eval "$images" --device cpu --results "$out/eval.jsonl" --confusion "$out/confusion.csv" --report "$out/eval.html" > /dev/null
  "$cli" -q check-equal --device cpu --a dtype=float32 --b dtype=bfloat16 --images "$images" --min-agreement 0.5 --report "$out/check.html" > /dev/null || [ $? -eq 1 ]
else
  "$cli" -q check-equal --device cpu --a dtype=float32 --b dtype=bfloat16 --report "$out/check.html" > /dev/null || [ $? -eq 1 ]
fi
for page in "${pages[@]}"; do
  for width in 390 1280; do
    for scheme in light:1 dark:0; do
      timeout 120 "$browser" --headless=new --no-sandbox --disable-gpu --hide-scrollbars --force-device-scale-factor=1 \
        --blink-settings=preferredColorScheme="${scheme#*:}" --window-size="$width,${HEIGHT:-3000}" \
        --screenshot="$out/$page-$width-${scheme%:*}.png" "file://$(realpath "$out/$page.html")" 2> /dev/null
    done
  done
done
ls -l "$out"/*.html "$out"/*.png
