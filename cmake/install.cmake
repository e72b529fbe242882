# Installed: the binary, the library with its header, CMake package and pkg-config file, the data that both find in
# share/vmamba-cli, the script for PyTorch's side, documents and bash completion.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
install(TARGETS vmamba-cli)
install(TARGETS vmamba EXPORT vmamba)
install(FILES lib/vmamba.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/vmamba)
install(EXPORT vmamba NAMESPACE vmamba:: FILE vmamba-config.cmake DESTINATION ${package})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/generated/vmamba-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/generated/vmamba-config-version.cmake DESTINATION ${package})
file(RELATIVE_PATH VMAMBA_PC_PREFIX /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)  # so that the folder can be moved
configure_file(cmake/vmamba.pc.in generated/vmamba.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/generated/vmamba.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

foreach(folder configs weights)
  if(IS_DIRECTORY ${PROJECT_SOURCE_DIR}/${folder})
    install(DIRECTORY ${folder} DESTINATION ${CMAKE_INSTALL_DATADIR}/vmamba-cli)
  endif()
endforeach()
install(PROGRAMS scripts/dump_reference.py DESTINATION ${CMAKE_INSTALL_DATADIR}/vmamba-cli)
install(DIRECTORY docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES README.md CHANGELOG.md LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES scripts/completion/vmamba-cli.bash
  DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME vmamba-cli)
