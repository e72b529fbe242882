# Run by cpack on the staged files. DEB: without the search path for libraries of the archive, and with the files that
# Debian's policy wants. TGZ: with the libraries that the program and libvmamba need.
cmake_policy(VERSION 3.25)
file(GLOB_RECURSE program ${CPACK_TEMPORARY_INSTALL_DIRECTORY}/bin/vmamba-cli
  ${CPACK_TEMPORARY_INSTALL_DIRECTORY}/*/bin/vmamba-cli)
get_filename_component(prefix ${program} DIRECTORY)
get_filename_component(prefix ${prefix} DIRECTORY)
file(GLOB_RECURSE library ${prefix}/lib*/libvmamba.so.*.*.*)
set(documents ${prefix}/share/doc/vmamba-cli)

if(CPACK_GENERATOR STREQUAL "DEB")
  file(RPATH_REMOVE FILE ${program})
  file(RPATH_REMOVE FILE ${library})
  file(COPY_FILE ${documents}/LICENSE ${documents}/copyright)  # the README's links keep their files
  file(COPY_FILE ${documents}/CHANGELOG.md ${documents}/changelog)
  file(GLOB pages ${prefix}/share/man/man1/*.1)
  foreach(file IN LISTS pages ITEMS ${documents}/changelog)
    execute_process(COMMAND gzip -9n ${file} COMMAND_ERROR_IS_FATAL ANY)  # -n: no time in it
  endforeach()
else()
  include(${CMAKE_CURRENT_LIST_DIR}/bundle.cmake)
  bundle_libraries(${program} ${library} ${documents}/licences ${CPACK_VMAMBA_JBIG})
endif()
