# cmake -DFOLDER=web -DOUTPUT=page_files.cc -P embed_page.cmake: the page's files as string literals (src/server/page.h).
# Its version is a hash of them all, which index.html names the others by.
file(GLOB names RELATIVE ${FOLDER} ${FOLDER}/*.html ${FOLDER}/*.css ${FOLDER}/*.js ${FOLDER}/*.svg)
list(SORT names)
set(hashes "")
foreach(name ${names})
  file(SHA256 ${FOLDER}/${name} hash)
  string(APPEND hashes "${name} ${hash}\n")
endforeach()
string(SHA256 version "${hashes}")
string(SUBSTRING ${version} 0 12 version)

set(entries "")
foreach(name ${names})
  if(name STREQUAL "index.html")
    file(READ ${FOLDER}/${name} text)
    string(REPLACE "@VERSION@" ${version} text "${text}")
    string(HEX "${text}" hex)
  else()
    file(READ ${FOLDER}/${name} hex HEX)
  endif()
  string(LENGTH "${hex}" digits)
  math(EXPR size "${digits} / 2")
  string(REGEX REPLACE "(..)" "\\\\x\\1" literal "${hex}")
  string(APPEND entries "    {\"${name}\", {\"${literal}\", ${size}}},\n")
endforeach()
file(WRITE ${OUTPUT}.new "// Made by cmake/embed_page.cmake.
#include \"server/page.h\"

namespace cambium::server {

std::string_view PageVersion() { return \"${version}\"; }

std::span<const PageFile> PageFiles() {
  static constexpr PageFile kFiles[] = {
${entries}  };
  return kFiles;
}

}  // namespace cambium::server
")
file(RENAME ${OUTPUT}.new ${OUTPUT})
