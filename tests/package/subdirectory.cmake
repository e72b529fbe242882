# The project in a subdirectory of another: cmake -DSOURCE=… -DBUILD=… -DGENERATOR=… -DDEPS=… -P …/subdirectory.cmake
file(REMOVE_RECURSE ${BUILD})
execute_process(COMMAND ${CMAKE_COMMAND} -G ${GENERATOR} -S ${SOURCE}/tests/package/subdirectory -B ${BUILD}
  -DVMAMBA=${SOURCE} -DVMAMBA_CUDA=OFF -DVMAMBA_DEPS_DIR=${DEPS} OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${CMAKE_COMMAND} --build ${BUILD} --target consumer OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
file(REMOVE_RECURSE ${BUILD})
