# cmake --install: the program with its man page and completions, the library, its headers, and the CMake package that
# exports cambium::cambium (tests/install uses it from outside).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/cambium)

install(TARGETS cambium_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS cambium EXPORT cambium-targets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/cambium DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT cambium-targets NAMESPACE cambium:: DESTINATION ${package_dir})
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/cambium-config.cmake.in
  ${PROJECT_BINARY_DIR}/cambium-config.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/cambium-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/cambium-config.cmake ${PROJECT_BINARY_DIR}/cambium-config-version.cmake
  DESTINATION ${package_dir})

# The man page and the completions come out of the program itself.
set(generated ${PROJECT_BINARY_DIR}/generated)
add_custom_command(OUTPUT ${generated}/cambium.1
  COMMAND ${CMAKE_COMMAND} -E make_directory ${generated}
  COMMAND cambium_cli man > ${generated}/cambium.1
  COMMAND cambium_cli completion bash > ${generated}/cambium.bash
  COMMAND cambium_cli completion zsh > ${generated}/_cambium
  COMMAND cambium_cli completion fish > ${generated}/cambium.fish
  BYPRODUCTS ${generated}/cambium.bash ${generated}/_cambium ${generated}/cambium.fish
  DEPENDS cambium_cli VERBATIM)
add_custom_target(cambium_man ALL DEPENDS ${generated}/cambium.1)
install(FILES ${generated}/cambium.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES ${generated}/cambium.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME cambium)
install(FILES ${generated}/_cambium DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions)
install(FILES ${generated}/cambium.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)

set(CPACK_GENERATOR TGZ DEB)
set(CPACK_PACKAGE_CONTACT "The Cambium authors")
set(CPACK_RESOURCE_FILE_LICENSE ${PROJECT_SOURCE_DIR}/LICENSE)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
include(CPack)
