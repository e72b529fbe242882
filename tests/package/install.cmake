# What is installed works by itself, also after the folder was moved: the program finds its configs, the library is
# built against and run. cmake -DBUILD=… -DPREFIX=… -DSOURCE=… -DGENERATOR=… -DSANITIZE=… -DLIBRARIES=… -P tests/package/install.cmake
file(REMOVE_RECURSE ${PREFIX} ${PREFIX}.first)
execute_process(COMMAND ${CMAKE_COMMAND} --install ${BUILD} --prefix ${PREFIX}.first OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
file(RENAME ${PREFIX}.first ${PREFIX})
execute_process(COMMAND ${PREFIX}/bin/vmamba-cli info --config vmamba_tiny_s1l8 --device cpu
  WORKING_DIRECTORY / OUTPUT_VARIABLE out COMMAND_ERROR_IS_FATAL ANY)
string(FIND "${out}" "${PREFIX}/share/vmamba-cli/configs/vmamba_tiny_s1l8.json" found)
if(found EQUAL -1)
  message(FATAL_ERROR "the installed program did not use the installed config:\n${out}")
endif()
foreach(file bash-completion/completions/vmamba-cli zsh/site-functions/_vmamba-cli
    fish/vendor_completions.d/vmamba-cli.fish man/man1/vmamba-cli.1 man/man1/vmamba-cli-check-equal.1 doc/vmamba-cli/README.md doc/vmamba-cli/docs/architecture.md
    vmamba-cli/dump_reference.py)
  if(NOT EXISTS ${PREFIX}/share/${file})
    message(FATAL_ERROR "not installed: share/${file}")
  endif()
endforeach()
# Links lead to what is installed too.
set(documents ${PREFIX}/share/doc/vmamba-cli)
file(GLOB files ${documents}/*.md ${documents}/docs/*.md ${documents}/weights/*.md)
set(seen 0)
foreach(file IN LISTS files)
  file(READ ${file} text)
  string(REGEX REPLACE "[][;]" "@" text "${text}")  # which lists are split at
  string(REGEX MATCHALL "@\\([^)#: ]+[)#]" links "${text}")
  get_filename_component(folder ${file} DIRECTORY)
  foreach(link IN LISTS links)
    string(REGEX REPLACE "^@.(.*).$" "\\1" link "${link}")
    math(EXPR seen "${seen} + 1")
    if(NOT EXISTS ${folder}/${link})
      message(FATAL_ERROR "${file}: ${link} is not installed")
    endif()
  endforeach()
endforeach()
if(seen LESS 40)
  message(FATAL_ERROR "only ${seen} links in the installed documents")
endif()

# Only the interface is exported.
file(GLOB_RECURSE library ${PREFIX}/lib*/libvmamba.so)
execute_process(COMMAND nm -D --defined-only ${library} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "[^\n]+" symbols "${symbols}")
list(FILTER symbols EXCLUDE REGEX " (T vmamba_[a-z_]+@@VMAMBA_0|A VMAMBA_0)$")
if(symbols)
  message(FATAL_ERROR "exported besides the interface: ${symbols}")
endif()
if(SANITIZE)  # a program without the sanitizers' runtime cannot load such a library
  file(REMOVE_RECURSE ${PREFIX})
  return()
endif()

get_filename_component(folder ${library} DIRECTORY)
set(ENV{PKG_CONFIG_PATH} ${folder}/pkgconfig)
set(ENV{LD_LIBRARY_PATH} "${folder}:${LIBRARIES}:$ENV{LD_LIBRARY_PATH}")  # the linker searches it too
execute_process(COMMAND ${CMAKE_COMMAND} -G ${GENERATOR} -S ${SOURCE}/tests/package/consumer -B ${PREFIX}/consumer
  -DCMAKE_PREFIX_PATH=${PREFIX} OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${CMAKE_COMMAND} --build ${PREFIX}/consumer OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
file(GLOB programs ${PREFIX}/consumer/consumer ${PREFIX}/consumer/consumer_pc)
foreach(program IN LISTS programs)
  execute_process(COMMAND ${program} ${SOURCE}/tests/data/chelsea.png
    WORKING_DIRECTORY / OUTPUT_VARIABLE out ERROR_VARIABLE err COMMAND_ERROR_IS_FATAL ANY)
  if(NOT out MATCHES "^[0-9.]+ tabby\n$" OR err)
    message(FATAL_ERROR "${program}: wanted \"VERSION tabby\", got: ${out}${err}")
  endif()
endforeach()
file(REMOVE_RECURSE ${PREFIX})
