#pragma once

#include <nanobind/ndarray.h>

#include <cstdint>
#include <span>
#include <vector>

#include "module.h"

namespace cambium::python {

// Token ids as callers have them: an int32 array is looked at in place, a list is taken element by element.
using Ids = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
inline std::span<const int32_t> SpanOf(const Ids& ids) { return {ids.data(), ids.shape(0)}; }

// The vector as a NumPy array that owns it; nothing is copied.
template <class T>
nb::object ToArray(std::vector<T>&& values) {
  auto* const kept = new std::vector<T>(std::move(values));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, T, nb::ndim<1>>(kept->data(), {kept->size()}, owner));
}

}  // namespace cambium::python
