#include "server/api_error.h"

#include <new>
#include <nlohmann/json.hpp>

#include "cambium/error.h"

namespace cambium::server {
namespace {

constexpr size_t kLongestMessage = 1000;  // an input that is quoted must not come back whole

}  // namespace

std::string_view ErrorType(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 429:
      return "rate_limit_error";
    case 503:
      return "unavailable_error";
    default:
      return status < 500 ? "invalid_request_error" : "server_error";
  }
}

std::string ErrorJson(const ApiError& error) {
  using Json = nlohmann::ordered_json;
  std::string message = error.message;
  if (message.size() > kLongestMessage) message.replace(kLongestMessage, std::string::npos, "...");
  Json body = {{"message", message}, {"type", ErrorType(error.status)}, {"param", nullptr}, {"code", nullptr}};
  if (!error.param.empty()) body["param"] = error.param;
  body["code"] = error.code.empty() ? Json(error.status) : Json(error.code);
  for (const auto& [name, value] : error.numbers) body[name] = value;
  return Json{{"error", body}}.dump(-1, ' ', false, Json::error_handler_t::replace);
}

HttpResponse ToResponse(const ApiError& error) {
  HttpResponse response{error.status, ErrorJson(error)};
  if (error.status == 429 || error.status == 503) response.headers.emplace_back("Retry-After", "1");
  if (error.status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

ApiError ToApiError(std::exception_ptr caught) {
  try {
    std::rethrow_exception(std::move(caught));
  } catch (const ApiError& error) {
    return error;
  } catch (const Error& error) {
    return {error.code() == ErrorCode::kRuntime ? 500 : 400, error.what(), "", ""};
  } catch (const std::bad_alloc&) {
    return {500, "out of memory", "", ""};
  } catch (const std::exception& error) {
    return {500, error.what(), "", ""};
  }
}

}  // namespace cambium::server
