#pragma once

#include <string>
#include <string_view>

#include "server/service.h"

namespace cambium::server {

enum class Access { kFree, kKey, kAdmin };  // who may: anybody, who has a key, who has the key of --admin-key-file
// On the I/O thread, or on the helper because it may take time. kPage: a file of the page, which needs no model.
enum class Where { kHere, kHelper, kPage };
struct Route {
  std::string_view method, path;  // a path that ends with "*" stands for all that begin so
  void (*answer)(Call&);
  Where where = Where::kHelper;
  Access access = Access::kKey;
  bool queued = false;  // takes a place among the generations that wait
};

struct Match {
  const Route* route = nullptr;
  std::string allowed;  // the methods that the path takes, "GET, HEAD, POST"; empty: there is no such path
};
Match FindRoute(std::string_view method, std::string_view path);

}  // namespace cambium::server
