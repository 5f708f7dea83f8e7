#include "server/gate.h"

#include <algorithm>
#include <span>

#include "io/sha256.h"

namespace cambium::server {
namespace {

std::string Digest(std::string_view text) {
  Sha256 hash;
  hash.Update({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  return hash.HexDigest();
}

// Digests are of one length, so the time tells neither the place of a difference nor the length of a key.
bool SameInConstantTime(std::string_view a, std::string_view b) {
  unsigned char difference = 0;
  for (size_t i = 0; i < a.size(); ++i) difference |= static_cast<unsigned char>(a[i] ^ b[i]);
  return difference == 0;
}

// "[::1]:8080" without its port.
std::string_view WithoutPort(std::string_view host) {
  const size_t bracket = host.rfind(']'), colon = host.rfind(':');
  return colon == host.npos || (bracket != host.npos && colon < bracket) ? host : host.substr(0, colon);
}

std::string KeyOf(const HttpRequest& head) {
  if (const std::string* const given = head.Header("authorization")) {
    const size_t space = given->find(' ');
    if (space == given->npos || !EqualNoCase(std::string_view(*given).substr(0, space), "bearer")) return "";
    return given->substr(given->find_first_not_of(' ', space));
  }
  const std::string* const key = head.Header("x-api-key");
  return key == nullptr ? "" : *key;
}

bool Holds(const std::vector<std::string>& list, std::string_view value) {
  return std::ranges::any_of(list, [&](const std::string& item) { return item == "*" || EqualNoCase(item, value); });
}

}  // namespace

Gate::Gate(GateOptions options) : options_(std::move(options)) {
  for (const std::string& key : options_.keys) keys_.push_back(Digest(key));
  for (const std::string& key : options_.admin_keys) admin_keys_.push_back(Digest(key));
}

bool Gate::HostIsOurs(std::string_view host) const {
  if (!options_.loopback && options_.hosts.empty()) return true;
  const std::string_view name = WithoutPort(host);
  if (Holds(options_.hosts, name)) return true;
  return EqualNoCase(name, "localhost") || name == "127.0.0.1" || name == "[::1]";
}

bool Gate::Knows(const std::vector<std::string>& digests, const HttpRequest& head) const {
  const std::string key = KeyOf(head);
  if (key.empty()) return false;
  const std::string digest = Digest(key);
  bool known = false;
  for (const std::string& good : digests) known |= SameInConstantTime(good, digest);
  return known;
}

std::string Gate::AllowedOrigin(const HttpRequest& head) const {
  const std::string* const origin = head.Header("origin");
  return origin != nullptr && Holds(options_.origins, *origin) ? *origin : "";
}

bool Gate::IsPreflight(const HttpRequest& head) const {
  return head.method == "OPTIONS" && head.Header("origin") != nullptr &&
         head.Header("access-control-request-method") != nullptr && !AllowedOrigin(head).empty();
}

std::optional<ApiError> Gate::Check(const HttpRequest& head, Access access) const {
  const std::string* const host = head.Header("host");
  if (host != nullptr && !HostIsOurs(*host)) {
    return ApiError{403, "this Host is not served here; --allow-host names further ones", "", "host_not_allowed"};
  }
  const std::string* const origin = head.Header("origin");
  if (origin != nullptr && AllowedOrigin(head).empty()) {
    const bool own = host != nullptr && (*origin == "http://" + *host || *origin == "https://" + *host);
    if (!own) {
      return ApiError{403, "pages of this Origin may not ask; --allow-origin names those that may", "",
                      "origin_not_allowed"};
    }
  }
  if (access == Access::kFree) return std::nullopt;
  const bool admin = Knows(admin_keys_, head);
  if (access == Access::kAdmin) {
    if (admin) return std::nullopt;
    if (admin_keys_.empty() && (keys_.empty() || Knows(keys_, head))) {
      return ApiError{403, "this needs an admin key, and there is none; --admin-key-file names them", "",
                      "not_allowed"};
    }
  }
  if (access == Access::kKey && (keys_.empty() || admin || Knows(keys_, head))) return std::nullopt;
  return ApiError{401, "a key is needed: Authorization: Bearer KEY", "", "invalid_api_key"};
}

}  // namespace cambium::server
