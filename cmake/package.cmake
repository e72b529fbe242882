# cpack -G DEB: a Debian package whose dependencies are those found. cpack -G TGZ: an archive that runs from any folder,
# with the libraries that the program needs (cmake/bundle.cmake), as a wheel has (pyproject.toml). scripts/package_check.sh
# tries all three.
add_library(vmamba_jbig SHARED cmake/jbig/jbig.cpp)
set_target_properties(vmamba_jbig PROPERTIES OUTPUT_NAME jbig SUFFIX .so.0 LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/jbig)
target_link_libraries(vmamba_jbig PRIVATE vmamba_warnings)
set(CPACK_VMAMBA_JBIG ${PROJECT_BINARY_DIR}/jbig/libjbig.so.0)
if(SKBUILD)
  install(CODE "include(\"${PROJECT_SOURCE_DIR}/cmake/bundle.cmake\")
    set(prefix \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}\")
    bundle_libraries(\${prefix}/bin/vmamba-cli \${prefix}/${CMAKE_INSTALL_LIBDIR}/libvmamba.so \${prefix}/licences
      \"${CPACK_VMAMBA_JBIG}\")")
  return()
endif()
set(CPACK_PACKAGE_NAME vmamba-cli)
set(CPACK_PACKAGE_CONTACT "The vmamba-cli authors <maintainers@vmamba-cli.invalid>")
set(CPACK_PACKAGE_VENDOR "The vmamba-cli authors")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "inference and verification of VMamba image classifiers")
set(CPACK_PACKAGE_DESCRIPTION "Runs VMamba models on CPUs and NVIDIA GPUs without Python, and verifies
that two implementations or settings of a model compute the same function.
The command vmamba-cli, the C library libvmamba, and a demonstration model.")
set(CPACK_GENERATOR DEB TGZ)
set(CPACK_STRIP_FILES ON)
set(CPACK_THREADS 0)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
set(CPACK_DEBIAN_PACKAGE_SUGGESTS python3)  # dump_reference.py
set(CPACK_DEBIAN_COMPRESSION_TYPE xz)
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${PROJECT_SOURCE_DIR}/cmake/debian/triggers)
set(CPACK_PRE_BUILD_SCRIPTS ${PROJECT_SOURCE_DIR}/cmake/staged.cmake)
include(CPack)
