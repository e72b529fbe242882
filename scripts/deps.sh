#!/usr/bin/env bash
# Provides the libraries on a build machine without root or network:
#   scripts/deps.sh download   on a machine with access to Debian 12's packages: downloads them to .deps/debs (11 MiB)
#   scripts/deps.sh unpack     on any machine with dpkg-deb: unpacks them to .deps, for cmake -DVMAMBA_DEPS_DIR=.deps
#   scripts/deps.sh            both
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-all}

packages=(
  libdnnl-dev libdnnl2 ocl-icd-libopencl1 libhwy-dev libhwy1
  libjpeg62-turbo-dev libjpeg62-turbo libpng-dev libpng16-16 zlib1g-dev
  libtiff-dev libtiff6 libdeflate0 libjbig0 liblerc4 libwebp-dev libwebp7 libwebpdemux2 libzip-dev libzip4 libssl3 libstb-dev
  libarchive-dev libarchive13 libacl1 libnettle8 libxml2 libicu72
  libsleef-dev libsleef3 libyaml-cpp-dev libyaml-cpp0.7 nlohmann-json3-dev libfmt-dev libfmt9 libspdlog-dev libspdlog1.10
  libcli11-dev doctest-dev libvalijson-dev
)

case $what in download | unpack | all) ;; *)
  echo "usage: scripts/deps.sh [download|unpack]" >&2
  exit 2
  ;;
esac
if [[ $what != unpack ]]; then
  mkdir -p .deps/debs
  (cd .deps/debs && apt-get -q -o APT::Sandbox::User=root download "${packages[@]}")
fi
if [[ $what != download ]]; then
  for deb in .deps/debs/*.deb; do
    dpkg-deb --extract "$deb" .deps
  done
  rm -rf .deps/usr/share/doc .deps/usr/lib/*/*.a
  # Links to libraries of packages left out would only mislead the linker.
  find .deps -xtype l -delete
fi
