#include "server/page.h"

#include <algorithm>

#include "server/api_error.h"

namespace cambium::server {
namespace {

// Scripts, styles and requests of our own alone; no text becomes markup or a script anywhere.
constexpr const char* kPolicy =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'";

std::string_view TypeOf(std::string_view name) {
  if (name.ends_with(".js")) return "text/javascript; charset=utf-8";
  if (name.ends_with(".css")) return "text/css; charset=utf-8";
  if (name.ends_with(".svg")) return "image/svg+xml";
  return "text/html; charset=utf-8";
}

// The file's name in web/; empty where the path is none of ours.
std::string_view NameOf(std::string_view path) {
  if (path == "/") return "index.html";
  if (path == "/favicon.ico") return "icon.svg";
  for (const std::string_view part : {std::string_view("/page/"), PageVersion(), std::string_view("/")}) {
    if (!path.starts_with(part)) return "";
    path.remove_prefix(part.size());
  }
  return path;
}

}  // namespace

HttpResponse AnswerPage(const HttpRequest& request) {
  const auto files = PageFiles();
  const auto file = std::ranges::find(files, NameOf(request.path), &PageFile::name);
  if (file == files.end()) return ToResponse({404, "the page has no such file", "", "not_found"});
  const std::string tag = '"' + std::string(PageVersion()) + '"';
  const std::string* const known = request.Header("if-none-match");
  HttpResponse response;
  if (known != nullptr && known->find(tag) != known->npos) {
    response.status = 304;
  } else {
    response.body = file->bytes;
    response.type = TypeOf(file->name);
  }
  const bool lasting = request.path.starts_with("/page/");
  response.headers = {{"ETag", tag},
                      {"Cache-Control", lasting ? "public, max-age=31536000, immutable" : "no-cache"},
                      {"Content-Security-Policy", kPolicy},
                      {"X-Content-Type-Options", "nosniff"},
                      {"Referrer-Policy", "no-referrer"},
                      {"Cross-Origin-Opener-Policy", "same-origin"},
                      {"Cross-Origin-Resource-Policy", "same-origin"}};
  return response;
}

}  // namespace cambium::server
