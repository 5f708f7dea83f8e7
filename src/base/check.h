#pragma once

#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <source_location>
#include <string_view>

#include "cambium/error.h"

namespace cambium {

// Aborts with `sentence` and the caller's place: the condition can be false only through our own bug.
void Check(bool condition, std::string_view sentence,
           std::source_location where = std::source_location::current()) noexcept;

// Arithmetic on counts that came from a file or a socket; an overflow throws kData naming `what`.
template <std::integral T>
T CheckedMul(T a, T b, std::string_view what) {
  T result;
  if (__builtin_mul_overflow(a, b, &result)) Fail(ErrorCode::kData, what, ": ", a, " x ", b, " overflows");
  return result;
}

template <std::integral T>
T CheckedAdd(T a, T b, std::string_view what) {
  T result;
  if (__builtin_add_overflow(a, b, &result)) Fail(ErrorCode::kData, what, ": ", a, " + ", b, " overflows");
  return result;
}

// The product of counts as a number of bytes to ask memory for; one that no address space holds is kResource with its
// factors.
size_t CheckedBytes(std::initializer_list<int64_t> factors);

}  // namespace cambium
