# cambium_room(NAME DEPS rooms... LIBS libraries...): one folder of src/ is one object library that links only
# what it may use. tools/check_layers.py checks that the includes agree. Kernels ask for fused multiply-adds by name; the
# compiler must not fuse others here and not there, because a row's bits may not depend on its path (law 2).
function(cambium_room name)
  cmake_parse_arguments(ROOM "" "" "DEPS;LIBS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${name}/*.cc)
  if(NOT sources)
    return()
  endif()
  add_library(cambium_${name} OBJECT ${sources})
  target_include_directories(cambium_${name} PUBLIC ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
  target_compile_options(cambium_${name} PRIVATE -Wall -Wextra -ffp-contract=off $<$<BOOL:${CAMBIUM_WERROR}>:-Werror>)
  list(TRANSFORM ROOM_DEPS PREPEND cambium_)
  target_link_libraries(cambium_${name} PUBLIC ${ROOM_DEPS} ${ROOM_LIBS})
  set_property(GLOBAL APPEND PROPERTY CAMBIUM_ROOMS cambium_${name})
endfunction()
