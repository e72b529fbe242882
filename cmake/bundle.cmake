# Run by cpack on the staged files. DEB: without the search path for libraries of the archive, and with the files that
# Debian's policy wants. TGZ: the libraries that the program and libvmamba need, except glibc's, in lib/vmamba-cli, and
# their licences.
cmake_policy(SET CMP0057 NEW)
file(GLOB_RECURSE program ${CPACK_TEMPORARY_INSTALL_DIRECTORY}/bin/vmamba-cli
  ${CPACK_TEMPORARY_INSTALL_DIRECTORY}/*/bin/vmamba-cli)
get_filename_component(prefix ${program} DIRECTORY)
get_filename_component(prefix ${prefix} DIRECTORY)
file(GLOB_RECURSE library ${prefix}/lib*/libvmamba.so.*.*.*)
set(documents ${prefix}/share/doc/vmamba-cli)

if(CPACK_GENERATOR STREQUAL "DEB")
  file(RPATH_REMOVE FILE ${program})
  file(RPATH_REMOVE FILE ${library})
  file(RENAME ${documents}/LICENSE ${documents}/copyright)
  file(RENAME ${documents}/CHANGELOG.md ${documents}/changelog)
  file(GLOB pages ${prefix}/share/man/man1/*.1)
  foreach(file IN LISTS pages ITEMS ${documents}/changelog)
    execute_process(COMMAND gzip -9n ${file} COMMAND_ERROR_IS_FATAL ANY)  # -n: no time in it
  endforeach()
  return()
endif()

file(GET_RUNTIME_DEPENDENCIES EXECUTABLES ${program} LIBRARIES ${library} RESOLVED_DEPENDENCIES_VAR libraries
  PRE_EXCLUDE_REGEXES "^(ld-linux|libc\\.so|libm\\.so|libdl\\.so|libpthread\\.so|librt\\.so|libresolv\\.so)"
  POST_EXCLUDE_REGEXES "/libvmamba\\.so")
get_filename_component(folder ${library} DIRECTORY)
file(MAKE_DIRECTORY ${documents}/licences)
foreach(file IN LISTS libraries)
  get_filename_component(name ${file} NAME)
  file(INSTALL ${file} DESTINATION ${folder}/vmamba-cli FOLLOW_SYMLINK_CHAIN)
  execute_process(COMMAND dpkg-query -S */${name} OUTPUT_VARIABLE package ERROR_QUIET)
  string(REGEX REPLACE ":.*" "" package "${package}")
  if(EXISTS /usr/share/doc/${package}/copyright)
    file(COPY_FILE /usr/share/doc/${package}/copyright ${documents}/licences/${package})
  endif()
endforeach()
