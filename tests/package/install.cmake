# The installed program finds its configs beside it: cmake -DBUILD=… -DPREFIX=… -P tests/package/install.cmake
file(REMOVE_RECURSE ${PREFIX})
execute_process(COMMAND ${CMAKE_COMMAND} --install ${BUILD} --prefix ${PREFIX} OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${PREFIX}/bin/vmamba-cli info --config vmamba_tiny_s1l8 --device cpu
  WORKING_DIRECTORY / OUTPUT_VARIABLE out COMMAND_ERROR_IS_FATAL ANY)
string(FIND "${out}" "${PREFIX}/share/vmamba-cli/configs/vmamba_tiny_s1l8.json" found)
if(found EQUAL -1)
  message(FATAL_ERROR "the installed program did not use the installed config:\n${out}")
endif()
foreach(file bash-completion/completions/vmamba-cli doc/vmamba-cli/README.md doc/vmamba-cli/architecture.md
    vmamba-cli/dump_reference.py)
  if(NOT EXISTS ${PREFIX}/share/${file})
    message(FATAL_ERROR "not installed: share/${file}")
  endif()
endforeach()
file(REMOVE_RECURSE ${PREFIX})
