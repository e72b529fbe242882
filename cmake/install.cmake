# Installed: the binary, the library with its header, CMake package and pkg-config file, the data that both find in
# share/vmamba-cli, the script for PyTorch's side, documents, manual pages and shell completion.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
# Libraries that an archive brings along; DT_RPATH also serves what they need themselves.
set_target_properties(vmamba-cli PROPERTIES INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}/vmamba-cli")
set_target_properties(vmamba PROPERTIES INSTALL_RPATH "$ORIGIN/vmamba-cli")
if(SKBUILD)  # beside the pip packages of CUDA
  foreach(target vmamba-cli vmamba)
    set_property(TARGET ${target} APPEND PROPERTY INSTALL_RPATH "$ORIGIN/../../nvidia/cublas/lib")
  endforeach()
endif()
foreach(target vmamba-cli vmamba)
  target_link_options(${target} PRIVATE -Wl,--disable-new-dtags)
endforeach()
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

file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/generated/links)
foreach(folder configs weights)
  if(IS_DIRECTORY ${PROJECT_SOURCE_DIR}/${folder})
    install(DIRECTORY ${folder} DESTINATION ${CMAKE_INSTALL_DATADIR}/vmamba-cli)
    # Where the documents' links lead.
    file(RELATIVE_PATH target /${CMAKE_INSTALL_DOCDIR} /${CMAKE_INSTALL_DATADIR}/vmamba-cli/${folder})
    file(CREATE_LINK ${target} ${PROJECT_BINARY_DIR}/generated/links/${folder} SYMBOLIC)
    install(FILES ${PROJECT_BINARY_DIR}/generated/links/${folder} DESTINATION ${CMAKE_INSTALL_DOCDIR})
  endif()
endforeach()
install(PROGRAMS scripts/dump_reference.py DESTINATION ${CMAKE_INSTALL_DATADIR}/vmamba-cli)
install(DIRECTORY docs DESTINATION ${CMAKE_INSTALL_DOCDIR})  # beside the README, as its links have them
install(FILES README.md README.zh-CN.md CHANGELOG.md CONTRIBUTING.md SECURITY.md LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES scripts/completion/vmamba-cli.bash
  DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME vmamba-cli)
install(FILES scripts/completion/_vmamba-cli DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions)
install(FILES scripts/completion/vmamba-cli.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)

# Manual pages, printed by the program: not where it was built for another machine.
if(NOT CMAKE_CROSSCOMPILING)
  file(READ app/main.cpp commands)
  string(REGEX MATCHALL "\n  command\\([a-z_]+" commands "${commands}")
  list(TRANSFORM commands REPLACE ".*\\(" "")
  list(TRANSFORM commands REPLACE "_" "-")
  set(manual ${PROJECT_BINARY_DIR}/manual)
  add_custom_command(OUTPUT ${manual}/vmamba-cli.1 DEPENDS vmamba-cli VERBATIM
    COMMAND ${CMAKE_COMMAND} -DPROGRAM=$<TARGET_FILE:vmamba-cli> -DOUTPUT=${manual} "-DCOMMANDS=${commands}"
      -P ${PROJECT_SOURCE_DIR}/cmake/manual.cmake)
  add_custom_target(vmamba_manual ALL DEPENDS ${manual}/vmamba-cli.1)
  install(DIRECTORY ${manual}/ DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
endif()
