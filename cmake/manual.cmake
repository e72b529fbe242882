# Writes the manual pages: cmake -DPROGRAM=… -DOUTPUT=… -DCOMMANDS=a;b -P cmake/manual.cmake
file(MAKE_DIRECTORY ${OUTPUT})
foreach(command IN LISTS COMMANDS ITEMS "")
  set(page vmamba-cli)
  if(command)
    set(page vmamba-cli-${command})
  endif()
  execute_process(COMMAND ${PROGRAM} help ${command} --format man OUTPUT_FILE ${OUTPUT}/${page}.1 COMMAND_ERROR_IS_FATAL ANY)
endforeach()
