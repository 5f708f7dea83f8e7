# cmake --install: the program with its man page, completions and systemd unit, and the library with its headers and the CMake
# package that exports cambium::cambium (tests/install uses it from outside). cpack makes a .deb of each, and a tarball of both.
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/cambium)

install(TARGETS cambium_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT program)
if(TARGET cambium_mpi)
  install(TARGETS cambium_mpi LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/cambium COMPONENT mpi)
  install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/cambium-mpi RENAME copyright
    COMPONENT mpi)
endif()
install(TARGETS cambium EXPORT cambium-targets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT library INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/cambium DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT library)
install(EXPORT cambium-targets NAMESPACE cambium:: DESTINATION ${package_dir} COMPONENT library)
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/cambium-config.cmake.in
  ${PROJECT_BINARY_DIR}/cambium-config.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/cambium-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/cambium-config.cmake ${PROJECT_BINARY_DIR}/cambium-config-version.cmake
  DESTINATION ${package_dir} COMPONENT library)

# Made where the program is linked (src/CMakeLists.txt).
set(generated ${PROJECT_BINARY_DIR}/generated)
install(FILES ${generated}/cambium.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 COMPONENT program)
install(FILES ${generated}/cambium.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME cambium
  COMPONENT program)
install(FILES ${generated}/_cambium DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions COMPONENT program)
install(FILES ${generated}/cambium.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d COMPONENT program)
install(FILES ${PROJECT_SOURCE_DIR}/packaging/cambium.service DESTINATION lib/systemd/system COMPONENT program)
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/cambium RENAME copyright
  COMPONENT program)
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/libcambium-dev RENAME copyright
  COMPONENT library)

set(CPACK_GENERATOR TGZ DEB)
set(CPACK_PACKAGE_CONTACT "The Cambium authors <cambium@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "Adapts frozen language models and serves them on a CPU")
set(CPACK_RESOURCE_FILE_LICENSE ${PROJECT_SOURCE_DIR}/LICENSE)
set(CPACK_STRIP_FILES ON)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_COMPONENTS_ALL program library)
if(TARGET cambium_mpi)
  list(APPEND CPACK_COMPONENTS_ALL mpi)
endif()
set(CPACK_COMPONENTS_GROUPING IGNORE)
set(CPACK_ARCHIVE_COMPONENT_INSTALL OFF)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PROGRAM_PACKAGE_NAME cambium)
set(CPACK_DEBIAN_PROGRAM_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PROGRAM_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PROGRAM_PACKAGE_RECOMMENDS ca-certificates)  # for cambium pull
set(CPACK_DEBIAN_MPI_PACKAGE_NAME cambium-mpi)
set(CPACK_DEBIAN_MPI_PACKAGE_SECTION science)
set(CPACK_DEBIAN_MPI_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_LIBRARY_PACKAGE_NAME libcambium-dev)
set(CPACK_DEBIAN_LIBRARY_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_LIBRARY_PACKAGE_DEPENDS "libcurl4-openssl-dev, libeigen3-dev, libfmt-dev, libhwy-dev, libpcre2-dev, \
libutf8proc-dev, nlohmann-json3-dev, pkg-config, zlib1g-dev")
include(CPack)
