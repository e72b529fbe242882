# shellcheck shell=bash
# Sourced by run.sh and test.sh: selects a preset, installs missing packages, configures. Writes to stderr only.

packages=(
  g++ cmake ninja-build
  libcli11-dev nlohmann-json3-dev libstb-dev libspdlog-dev libfmt-dev doctest-dev libvalijson-dev libjpeg-dev libpng-dev
  libtiff-dev libwebp-dev libdnnl-dev libhwy-dev libarchive-dev libzip-dev zlib1g-dev libsleef-dev
  libyaml-cpp-dev
)

# The CUDA toolkit's default location, if nvcc is not in PATH.
if ! command -v nvcc >/dev/null && [[ -x /usr/local/cuda/bin/nvcc ]]; then
  PATH=$PATH:/usr/local/cuda/bin
fi

say() { echo "$*" >&2; }

# cuda if a GPU and nvcc are available, else cpu; VMAMBA_PRESET overrides.
choose_preset() {
  if [[ -n ${VMAMBA_PRESET:-} ]]; then
    echo "$VMAMBA_PRESET"
  elif nvidia-smi -L >/dev/null 2>&1 && command -v nvcc >/dev/null; then
    echo cuda
  else
    echo cpu
  fi
}

# Installs missing Debian packages with apt, using sudo if not root.
install_missing() {
  command -v dpkg-query >/dev/null || return 0 # not Debian: CMake names what is missing
  local missing=() package
  for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status} ${Provides}\n' "$package" 2>/dev/null | grep -q '^install ok installed' ||
      missing+=("$package")
  done
  [[ ${#missing[@]} -gt 0 ]] || return 0
  local as_root=()
  if [[ $EUID -ne 0 ]]; then
    if ! command -v sudo >/dev/null; then
      say "These packages are missing, and installing them needs root: ${missing[*]}"
      say "Install them, or unpack them without root: scripts/deps.sh; then set VMAMBA_DEPS_DIR=.deps"
      exit 3
    fi
    as_root=(sudo)
  fi
  say "Installing: ${missing[*]}"
  # The package lists of a fresh machine are empty or old.
  "${as_root[@]}" apt-get update -q >&2
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends "${missing[@]}" >&2
}

# configure PRESET [CMake options]: once; again only when the presets, the options or this file have changed.
configure() {
  local preset=$1 stamp options
  shift
  options=("$@")
  if [[ -n ${VMAMBA_DEPS_DIR:-} ]]; then
    options+=("-DVMAMBA_DEPS_DIR=$VMAMBA_DEPS_DIR")
  fi
  stamp=build/$preset/.configured
  local wanted
  wanted=$(printf '%s\n' "${options[@]+"${options[@]}"}" "${packages[@]}")
  if [[ -f build/$preset/build.ninja && -f $stamp && $(<"$stamp") == "$wanted" && $stamp -nt CMakePresets.json ]]; then
    return
  fi
  [[ -n ${VMAMBA_DEPS_DIR:-} ]] || install_missing
  cmake --preset "$preset" "${options[@]+"${options[@]}"}" >&2
  echo "$wanted" >"$stamp"
}
