#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <limits>
#include <memory>

#include "arrays.h"
#include "cambium/min_cover.h"
#include "cambium/sliding_max.h"

namespace cambium::python {
namespace {

template <class T>
using Rows = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

template <class T>
void Slide(std::span<const T> values, int64_t k, bool min, std::span<T> out) {
  if (min) {
    SlidingMin<T>(values, k, out);
  } else {
    SlidingMax<T>(values, k, out);
  }
}

// out[i] of the k values up to i; NaN where fewer than k come before it or one of them is NaN.
template <class T>
void SlideWhole(std::span<const T> values, int64_t k, bool min, std::span<T> out) {
  const size_t missing = std::min(out.size(), static_cast<size_t>(k - 1));
  std::fill_n(out.begin(), missing, std::numeric_limits<T>::quiet_NaN());
  Slide<T>(values, k, min, out.subspan(missing));
}

// The same of those that are not NaN; NaN where they are fewer than min_count.
template <class T>
void SlidePartly(std::span<const T> values, int64_t k, int64_t min_count, bool min, std::span<T> out) {
  const T nothing = min ? std::numeric_limits<T>::infinity() : -std::numeric_limits<T>::infinity();
  const size_t reach = std::min(static_cast<size_t>(k), values.size());  // further back is nothing
  std::vector<T> padded(values.size() + reach - 1, nothing);
  for (size_t i = 0; i < values.size(); ++i) {
    if (!std::isnan(values[i])) padded[i + reach - 1] = values[i];
  }
  Slide<T>(padded, static_cast<int64_t>(reach), min, out);
  int64_t count = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    if (!std::isnan(values[i])) ++count;
    if (i >= reach && !std::isnan(values[i - reach])) --count;
    if (count < min_count) out[i] = std::numeric_limits<T>::quiet_NaN();
  }
}

template <class T>
nb::ndarray<nb::numpy, T, nb::ndim<2>> Uninitialised(size_t rows, size_t columns) {
  T* const data = new T[std::max<size_t>(1, rows * columns)];
  const nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return nb::ndarray<nb::numpy, T, nb::ndim<2>>(data, {rows, columns}, owner);
}

// Full windows alone: [rows, n - k + 1].
template <class T>
nb::ndarray<nb::numpy, T, nb::ndim<2>> Valid(const Rows<T>& values, int64_t k, bool min) {
  const size_t rows = values.shape(0), n = values.shape(1);
  const auto count = static_cast<size_t>(SlidingCount(static_cast<int64_t>(n), k));
  auto out = Uninitialised<T>(rows, count);
  T* const to = out.data();
  const nb::gil_scoped_release free;
  for (size_t row = 0; row < rows && count > 0; ++row) {
    Slide<T>({values.data() + row * n, n}, k, min, {to + row * count, count});
  }
  return out;
}

// A value for each place: [rows, n].
template <class T>
nb::ndarray<nb::numpy, T, nb::ndim<2>> Same(const Rows<T>& values, int64_t k, int64_t min_count, bool min) {
  const size_t rows = values.shape(0), n = values.shape(1);
  SlidingCount(static_cast<int64_t>(n), k);
  if (min_count < 1 || min_count > k) {
    Fail(ErrorCode::kUsage, "min_count is ", min_count, ", expected 1 to k, which is ", k);
  }
  auto out = Uninitialised<T>(rows, n);
  T* const to = out.data();
  const nb::gil_scoped_release free;
  for (size_t row = 0; row < rows && n > 0; ++row) {
    const std::span<const T> from{values.data() + row * n, n};
    const std::span<T> into{to + row * n, n};
    if (min_count == k) {
      SlideWhole<T>(from, k, min, into);
    } else {
      SlidePartly<T>(from, k, min_count, min, into);
    }
  }
  return out;
}

using Found = std::optional<std::pair<int64_t, int64_t>>;

Found PairOf(const std::optional<Window>& window) {
  if (!window) return std::nullopt;
  return std::pair(window->begin, window->end);
}

std::u32string CodePoints(const nb::str& text) {
  const Py_ssize_t length = PyUnicode_GetLength(text.ptr());
  std::u32string points(static_cast<size_t>(length), U'\0');
  static_assert(sizeof(Py_UCS4) == sizeof(char32_t));
  std::vector<Py_UCS4> copied(static_cast<size_t>(length) + 1);
  if (PyUnicode_AsUCS4(text.ptr(), copied.data(), length + 1, 1) == nullptr) throw nb::python_error();
  std::copy_n(copied.begin(), length, points.begin());
  return points;
}

std::vector<std::string_view> Views(const std::vector<std::string>& words) { return {words.begin(), words.end()}; }

template <class T>
void BindElement(nb::module_& m) {
  m.def("sliding_valid", &Valid<T>, nb::arg("rows").noconvert(), nb::arg("k"), nb::arg("min"));
  if constexpr (std::is_floating_point_v<T>) {
    m.def("sliding_same", &Same<T>, nb::arg("rows").noconvert(), nb::arg("k"), nb::arg("min_count"), nb::arg("min"));
  }
}

}  // namespace

void BindWindows(nb::module_& m) {
  BindElement<float>(m);
  BindElement<double>(m);
  BindElement<int32_t>(m);
  BindElement<int64_t>(m);
  m.def("min_cover", [](const nb::bytes& s, const nb::bytes& t) {
    return PairOf(MinCover(std::string_view(s.c_str(), s.size()), std::string_view(t.c_str(), t.size())));
  });
  m.def("min_cover", [](const nb::str& s, const nb::str& t) {
    const std::u32string in = CodePoints(s), wanted = CodePoints(t);
    const nb::gil_scoped_release free;
    return PairOf(MinCover(std::u32string_view(in), std::u32string_view(wanted)));
  });
  m.def(
      "min_cover",
      [](const Ids& s, const Ids& t) {
        const nb::gil_scoped_release free;
        return PairOf(MinCover(SpanOf(s), SpanOf(t)));
      },
      nb::arg("s").noconvert(), nb::arg("t").noconvert());
  m.def("min_cover", [](const std::vector<std::string>& s, const std::vector<std::string>& t) {
    return PairOf(MinCover(Views(s), Views(t)));
  });
  m.def("min_cover", [](const std::vector<int32_t>& s, const std::vector<int32_t>& t) {
    return PairOf(MinCover(std::span(s), std::span(t)));
  });
}

}  // namespace cambium::python
