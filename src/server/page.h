#pragma once

#include <span>
#include <string_view>

#include "server/http.h"

// The page that the server shows: the files of web/, which cmake/embed_page.cmake puts into the program.
namespace cambium::server {

struct PageFile {
  std::string_view name, bytes;
};
std::span<const PageFile> PageFiles();
std::string_view PageVersion();  // of all files together

// Answers "/", "/favicon.ico" and "/page/VERSION/NAME". What is named by the version may be kept for ever.
HttpResponse AnswerPage(const HttpRequest& request);

}  // namespace cambium::server
