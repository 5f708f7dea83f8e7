#pragma once

namespace cambium {

// Whether a sanitizer is built in: its shadow memory is in the way of limits on the address space, and it
// takes several times the time.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace cambium
