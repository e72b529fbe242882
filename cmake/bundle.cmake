# bundle_libraries(PROGRAM LIBRARY LICENCES JBIG): the libraries that PROGRAM and LIBRARY need, except glibc's, in
# vmamba-cli beside LIBRARY; the licences of the packages that they are from, and the packages' sources, in LICENCES. JBIG
# takes libjbig's place.
cmake_policy(VERSION 3.25)
function(bundle_libraries program library licences jbig)
  file(GET_RUNTIME_DEPENDENCIES EXECUTABLES ${program} LIBRARIES ${library} RESOLVED_DEPENDENCIES_VAR libraries
    PRE_EXCLUDE_REGEXES "^(ld-linux|libc\\.so|libm\\.so|libdl\\.so|libpthread\\.so|librt\\.so|libresolv\\.so)"
    POST_EXCLUDE_REGEXES "/libvmamba\\.so" "/libjbig\\.so")
  get_filename_component(folder ${library} DIRECTORY)
  file(MAKE_DIRECTORY ${licences} ${folder}/vmamba-cli)
  set(sources "Where the libraries in lib/vmamba-cli are from: Debian's source packages (apt-get source NAME=VERSION, or\n"
    "snapshot.debian.org). Whoever passes these files on offers the sources of those under the LGPL as well.\n"
    "libjbig.so.0 is this project's: it refuses JBIG, in place of the library under the GPL.\n\n")
  foreach(file IN LISTS libraries ITEMS ${jbig})
    get_filename_component(name ${file} NAME)
    file(COPY_FILE ${file} ${folder}/vmamba-cli/${name})  # a file, not a chain of links: wheels have none
    if(file STREQUAL jbig)
      continue()
    endif()
    get_filename_component(from ${file} DIRECTORY)
    get_filename_component(from ${from} NAME)  # of the architecture; /lib and /usr/lib may be the same
    execute_process(COMMAND dpkg-query -S */${from}/${name} OUTPUT_VARIABLE package ERROR_QUIET)
    string(REGEX REPLACE ":.*" "" package "${package}")
    if(EXISTS /usr/share/doc/${package}/copyright)
      file(COPY_FILE /usr/share/doc/${package}/copyright ${licences}/${package})
      execute_process(COMMAND dpkg-query -W -f "\${source:Package}=\${source:Version}" ${package} OUTPUT_VARIABLE source)
      list(APPEND sources "${name}: ${source}\n")
    else()
      list(APPEND sources "${name}: not from a Debian package\n")
    endif()
  endforeach()
  list(JOIN sources "" sources)
  file(WRITE ${licences}/README "${sources}")
endfunction()
