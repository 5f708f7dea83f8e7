#pragma once

#include <cstdint>
#include <exception>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/http.h"

namespace cambium::server {

// Why a request is refused: {"error": {"message", "type", "param", "code"}}. Messages are short and name the field.
struct ApiError {
  int status = 400;
  std::string message;
  std::string param;                                          // the field; empty: none
  std::string code;                                           // for programs: "model_not_found"; empty: none
  std::vector<std::pair<std::string, int64_t>> numbers = {};  // further members of the error
};

// Of a status: "invalid_request_error", "authentication_error", ...
std::string_view ErrorType(int status);

std::string ErrorJson(const ApiError& error);
HttpResponse ToResponse(const ApiError& error);

// What was caught, as an ApiError: cambium::Error is the caller's fault unless it says otherwise.
ApiError ToApiError(std::exception_ptr caught);

}  // namespace cambium::server
