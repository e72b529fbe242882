# Cross-compiling for aarch64 with Debian's g++-aarch64-linux-gnu, tests by qemu-user-static (docs/packages.md):
# cmake -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64.cmake -DVMAMBA_DEPS_DIR=FOLDER_OF_ARM64_PACKAGES …
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR "qemu-aarch64-static;-L;/usr/aarch64-linux-gnu")
