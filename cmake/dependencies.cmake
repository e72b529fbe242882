# The libraries, as imported targets: from the system, or from VMAMBA_DEPS_DIR, a folder into which Debian packages
# were unpacked (scripts/deps.sh); with VMAMBA_FETCH the small ones that are missing are downloaded, at the versions that
# Debian 12 has. All that is still missing is named at once.
option(VMAMBA_FETCH "Download the small libraries that this system lacks, at pinned versions" OFF)
set(VMAMBA_DEPS_DIR "" CACHE PATH "A folder of unpacked Debian packages to take libraries from (scripts/deps.sh)")
if(VMAMBA_DEPS_DIR)
  get_filename_component(VMAMBA_DEPS_DIR ${VMAMBA_DEPS_DIR} ABSOLUTE BASE_DIR ${PROJECT_SOURCE_DIR})
  list(PREPEND CMAKE_PREFIX_PATH ${VMAMBA_DEPS_DIR}/usr)
  # DT_RPATH, not RUNPATH: it also serves the libraries that these libraries need.
  set(deps_lib ${VMAMBA_DEPS_DIR}/usr/lib/${CMAKE_LIBRARY_ARCHITECTURE})
  add_link_options(-Wl,--disable-new-dtags,-rpath,${deps_lib},-rpath-link,${deps_lib})
endif()
set(VMAMBA_LIBRARIES "")
set(missing "")

# The version of a library found by header and file: from its .pc file, or from oneDNN's header; else empty.
function(vmamba_version include_dir file result)
  if(EXISTS ${include_dir}/oneapi/dnnl/dnnl_version.h AND file MATCHES "dnnl")
    file(STRINGS ${include_dir}/oneapi/dnnl/dnnl_version.h lines REGEX "define DNNL_VERSION_(MAJOR|MINOR|PATCH)")
    string(REGEX MATCHALL "[0-9]+" version "${lines}")
    list(JOIN version . version)
    set(${result} ${version} PARENT_SCOPE)
    return()
  endif()
  get_filename_component(folder ${file} DIRECTORY)
  get_filename_component(name ${file} NAME_WE)
  string(REGEX REPLACE "^lib" "" name ${name})
  set(version "")
  foreach(pc lib${name} ${name} ${name}lib lib${name}-4)
    if(EXISTS ${folder}/pkgconfig/${pc}.pc)
      file(STRINGS ${folder}/pkgconfig/${pc}.pc version REGEX "^Version:")
      string(REGEX REPLACE "^Version: *" "" version "${version}")
      break()
    endif()
  endforeach()
  set(${result} "${version}" PARENT_SCOPE)
endfunction()

# vmamba_fetch(NAME WHERE…): sources at a pinned version, in NAME_SOURCE_DIR, without their own CMake files. WHERE: as in
# FetchContent_Declare.
macro(vmamba_fetch name)
  include(FetchContent)
  message(STATUS "Fetching ${name}")
  FetchContent_Declare(${name} ${ARGN} SOURCE_SUBDIR none)
  FetchContent_MakeAvailable(${name})
  string(TOLOWER ${name} fetched)
  set(${name}_SOURCE_DIR ${${fetched}_SOURCE_DIR})
  list(APPEND VMAMBA_LIBRARIES "${name} (fetched)")
endmacro()

# The same for a library of headers, as TARGET.
macro(vmamba_fetch_headers name target folder)
  vmamba_fetch(${name} ${ARGN})
  add_library(${target} INTERFACE IMPORTED)
  set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES ${${name}_SOURCE_DIR}/${folder})
endmacro()

# With a CMake package: vmamba_package(NAME TARGET DEBIAN_PACKAGE INCLUDE_FOLDER WHERE…).
macro(vmamba_package name target debian folder)
  find_package(${name} QUIET)
  if(TARGET ${target})
    list(APPEND VMAMBA_LIBRARIES "${name} ${${name}_VERSION}")
  elseif(VMAMBA_FETCH)
    vmamba_fetch_headers(${name} ${target} ${folder} ${ARGN})
    set(${name}_FETCHED ON)
  else()
    list(APPEND missing ${debian})
  endif()
endmacro()

# Without one: vmamba_headers(NAME TARGET DEBIAN_PACKAGE INCLUDE_FOLDER HEADER WHERE…).
macro(vmamba_headers name target debian folder header)
  find_path(${name}_INCLUDE_DIR ${header} PATH_SUFFIXES ${name})
  mark_as_advanced(${name}_INCLUDE_DIR)
  if(${name}_INCLUDE_DIR)
    add_library(${target} INTERFACE IMPORTED)
    set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES ${${name}_INCLUDE_DIR})
  elseif(VMAMBA_FETCH)
    vmamba_fetch_headers(${name} ${target} ${folder} ${ARGN})
  else()
    list(APPEND missing ${debian})
  endif()
endmacro()

# A library found by its header and file: vmamba_library(NAME TARGET DEBIAN_PACKAGE HEADER FILE). Not every one has a
# CMake package, and Debian's of oneDNN asks for OpenCL's headers, which we do not need.
macro(vmamba_library name target debian header file)
  find_path(${name}_INCLUDE_DIR ${header})
  find_library(${name}_LIBRARY ${file})
  mark_as_advanced(${name}_INCLUDE_DIR ${name}_LIBRARY)
  if(${name}_INCLUDE_DIR AND ${name}_LIBRARY)
    add_library(${target} UNKNOWN IMPORTED)
    set_target_properties(${target} PROPERTIES
      IMPORTED_LOCATION ${${name}_LIBRARY} INTERFACE_INCLUDE_DIRECTORIES ${${name}_INCLUDE_DIR})
    vmamba_version(${${name}_INCLUDE_DIR} ${${name}_LIBRARY} version)
    list(APPEND VMAMBA_LIBRARIES "${name} ${version}")
  else()
    list(APPEND missing ${debian})
  endif()
endmacro()

find_package(OpenMP REQUIRED COMPONENTS CXX)
find_package(Threads REQUIRED)
vmamba_library(oneDNN DNNL::dnnl libdnnl-dev oneapi/dnnl/dnnl.hpp dnnl)
if(VMAMBA_FETCH)
  find_library(Highway_LIBRARY hwy)
endif()
if(VMAMBA_FETCH AND NOT Highway_LIBRARY)
  vmamba_fetch(Highway GIT_REPOSITORY https://github.com/google/highway
    GIT_TAG 58b52a717469e62b2d9b8eaa2f5dddb44d4a4cbf) # 1.0.3
  set(HWY_ENABLE_TESTS OFF CACHE BOOL "" FORCE)
  add_subdirectory(${Highway_SOURCE_DIR} ${PROJECT_BINARY_DIR}/_deps/highway-build EXCLUDE_FROM_ALL SYSTEM)
  add_library(hwy::hwy ALIAS hwy)
else()
  vmamba_library(Highway hwy::hwy libhwy-dev hwy/highway.h hwy)
endif()
vmamba_library(libjpeg-turbo JPEG::JPEG libjpeg-dev jpeglib.h jpeg)
if(TARGET JPEG::JPEG) # Debian's jconfig.h is in the folder of the architecture
  find_path(libjpeg-turbo_CONFIG_DIR jconfig.h)
  mark_as_advanced(libjpeg-turbo_CONFIG_DIR)
  set_property(TARGET JPEG::JPEG APPEND PROPERTY INTERFACE_INCLUDE_DIRECTORIES ${libjpeg-turbo_CONFIG_DIR})
endif()
vmamba_library(libpng PNG::PNG libpng-dev png.h png)
vmamba_library(libtiff TIFF::TIFF libtiff-dev tiffio.h tiff)
vmamba_library(libwebp WebP::webp libwebp-dev webp/decode.h webp)
vmamba_library(libwebpdemux WebP::webpdemux libwebp-dev webp/demux.h webpdemux)
if(VMAMBA_FETCH)
  find_library(libarchive_LIBRARY archive)
endif()
if(VMAMBA_FETCH AND NOT libarchive_LIBRARY)
  vmamba_fetch(libarchive GIT_REPOSITORY https://github.com/libarchive/libarchive
    GIT_TAG ba80276ccc3c941c4918ec6e2460059f0c525c43) # 3.6.2
  foreach(option TEST TAR CPIO CAT INSTALL OPENSSL LIBB2 LZ4 LIBXML2 EXPAT XATTR ACL)
    set(ENABLE_${option} OFF CACHE BOOL "" FORCE)
  endforeach()
  add_subdirectory(${libarchive_SOURCE_DIR} ${PROJECT_BINARY_DIR}/_deps/libarchive-build EXCLUDE_FROM_ALL SYSTEM)
  add_library(libarchive::archive INTERFACE IMPORTED)
  target_link_libraries(libarchive::archive INTERFACE archive_static)
  target_include_directories(libarchive::archive INTERFACE ${libarchive_SOURCE_DIR}/libarchive)
else()
  vmamba_library(libarchive libarchive::archive libarchive-dev archive.h archive)
endif()
vmamba_library(libzip libzip::zip libzip-dev zip.h zip)
vmamba_library(zlib ZLIB::ZLIB zlib1g-dev zlib.h z)
vmamba_library(SLEEF sleef::sleef libsleef-dev sleef.h sleef)
find_package(yaml-cpp QUIET)
if(TARGET yaml-cpp)
  list(APPEND VMAMBA_LIBRARIES "yaml-cpp ${yaml-cpp_VERSION}")
elseif(VMAMBA_FETCH)
  vmamba_fetch(yaml-cpp GIT_REPOSITORY https://github.com/jbeder/yaml-cpp
    GIT_TAG 0579ae3d976091d7d664aa9d2527e0d0cff25763) # 0.7.0
  set(YAML_CPP_BUILD_TESTS OFF CACHE BOOL "" FORCE)
  set(YAML_CPP_BUILD_TOOLS OFF CACHE BOOL "" FORCE)
  add_subdirectory(${yaml-cpp_SOURCE_DIR} ${PROJECT_BINARY_DIR}/_deps/yaml-cpp-build EXCLUDE_FROM_ALL SYSTEM)
else()
  list(APPEND missing libyaml-cpp-dev)
endif()
vmamba_package(nlohmann_json nlohmann_json::nlohmann_json nlohmann-json3-dev include
  GIT_REPOSITORY https://github.com/nlohmann/json GIT_TAG bc889afb4c5bf1c0d8ee29ef35eaaf4c8bef8a5d) # 3.11.2
vmamba_package(fmt fmt::fmt libfmt-dev include
  GIT_REPOSITORY https://github.com/fmtlib/fmt GIT_TAG a33701196adfad74917046096bf5a2aa0ab0bb50) # 9.1.0
if(fmt_FETCHED)
  set_target_properties(fmt::fmt PROPERTIES INTERFACE_COMPILE_DEFINITIONS FMT_HEADER_ONLY)
endif()
vmamba_package(spdlog spdlog::spdlog libspdlog-dev include
  GIT_REPOSITORY https://github.com/gabime/spdlog GIT_TAG 76fb40d95455f249bd70824ecfcae7a8f0930fa3) # 1.10.0
if(spdlog_FETCHED)
  set_target_properties(spdlog::spdlog PROPERTIES
    INTERFACE_COMPILE_DEFINITIONS SPDLOG_FMT_EXTERNAL INTERFACE_LINK_LIBRARIES fmt::fmt)
endif()
vmamba_package(CLI11 CLI11::CLI11 libcli11-dev include
  URL https://github.com/CLIUtils/CLI11/archive/refs/tags/v2.1.2.tar.gz
  URL_HASH SHA256=26291377e892ba0e5b4972cdfd4a2ab3bf53af8dac1f4ea8fe0d1376b625c8cb)
vmamba_headers(stb stb::stb libstb-dev . stb_image.h
  GIT_REPOSITORY https://github.com/nothings/stb GIT_TAG 8b5f1f37b5b75829fc72d38e7b5d4bcbf8a26d55)
if(VMAMBA_TESTS)
  vmamba_package(doctest doctest::doctest doctest-dev .
    GIT_REPOSITORY https://github.com/doctest/doctest GIT_TAG b7c21ec5ceeadb4951b00396fc1e4642dd347e5f) # 2.4.9
  vmamba_headers(valijson valijson::headers libvalijson-dev include valijson/validator.hpp
    URL https://github.com/tristanpenman/valijson/archive/refs/tags/v1.0.tar.gz
    URL_HASH SHA256=6b9f0bc89880feb3fe09aa469cd81f6168897d2fbb4e715853da3b94afd3779a)
endif()

if(missing)
  list(JOIN missing " " missing)
  message(FATAL_ERROR "Libraries are missing. On Debian or Ubuntu: apt install ${missing}\n"
    "Without root: scripts/deps.sh unpacks them into .deps; then configure with -DVMAMBA_DEPS_DIR=.deps\n"
    "Elsewhere: -DVMAMBA_FETCH=ON downloads the small ones; oneDNN (2.6 or 2.7), libjpeg-turbo, libpng, libtiff, "
    "libwebp, libzip, zlib and SLEEF come from your system's packages")
endif()
list(JOIN VMAMBA_LIBRARIES ", " VMAMBA_LIBRARIES)
