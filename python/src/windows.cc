#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <thread>

#include "arrays.h"
#include "cambium/min_cover.h"
#include "cambium/sliding_max.h"

namespace cambium::python {
namespace {

template <class T>
using Rows = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T>
using RowsOut = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

template <class T>
void Slide(std::span<const T> values, int64_t k, bool min, std::span<T> out) {
  if (min) {
    SlidingMin<T>(values, k, out);
  } else {
    SlidingMax<T>(values, k, out);
  }
}

// Full windows of a long row, cut into parts for threads of their own: a part reads k - 1 values more than it writes.
template <class T>
void SlideByThreads(std::span<const T> values, int64_t k, bool min, std::span<T> out) {
  constexpr size_t kLeast = size_t{1} << 20;  // results that are worth a thread
  const size_t cpus = std::max(1u, std::thread::hardware_concurrency());
  const size_t least = std::max(kLeast, static_cast<size_t>(k));
  const size_t parts = std::clamp<size_t>(out.size() / least, 1, std::min<size_t>(cpus, 16));
  std::vector<std::thread> threads;
  const auto part = [&](size_t i) {
    const size_t begin = out.size() * i / parts, end = out.size() * (i + 1) / parts;
    if (begin == end) return;
    Slide<T>(values.subspan(begin, end - begin + static_cast<size_t>(k) - 1), k, min, out.subspan(begin, end - begin));
  };
  for (size_t i = 1; i < parts; ++i) threads.emplace_back(part, i);
  part(0);
  for (std::thread& thread : threads) thread.join();
}

// out[i] of the k values up to i; NaN where fewer than k come before it or one of them is NaN.
template <class T>
void SlideWhole(std::span<const T> values, int64_t k, bool min, std::span<T> out) {
  const size_t missing = std::min(out.size(), static_cast<size_t>(k - 1));
  std::fill_n(out.begin(), missing, std::numeric_limits<T>::quiet_NaN());
  if (missing < out.size()) SlideByThreads<T>(values, k, min, out.subspan(missing));
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

void RequireShape(const char* name, size_t rows, size_t columns, size_t got_rows, size_t got_columns) {
  if (rows == got_rows && columns == got_columns) return;
  Fail(ErrorCode::kUsage, name, " has the shape ", got_rows, " x ", got_columns, ", expected ", rows, " x ", columns);
}

// Full windows alone: out [rows, n - k + 1].
template <class T>
void Valid(const Rows<T>& values, const RowsOut<T>& out, int64_t k, bool min) {
  const size_t rows = values.shape(0), n = values.shape(1);
  const auto count = static_cast<size_t>(SlidingCount(static_cast<int64_t>(n), k));
  RequireShape("out", rows, count, out.shape(0), out.shape(1));
  const nb::gil_scoped_release free;
  for (size_t row = 0; row < rows && count > 0; ++row) {
    SlideByThreads<T>({values.data() + row * n, n}, k, min, {out.data() + row * count, count});
  }
}

// A value for each place: out [rows, n].
template <class T>
void Same(const Rows<T>& values, const RowsOut<T>& out, int64_t k, int64_t min_count, bool min) {
  const size_t rows = values.shape(0), n = values.shape(1);
  SlidingCount(static_cast<int64_t>(n), k);
  if (min_count < 1 || min_count > k) {
    Fail(ErrorCode::kUsage, "min_count is ", min_count, ", expected 1 to k, which is ", k);
  }
  RequireShape("out", rows, n, out.shape(0), out.shape(1));
  const nb::gil_scoped_release free;
  for (size_t row = 0; row < rows && n > 0; ++row) {
    const std::span<const T> from{values.data() + row * n, n};
    const std::span<T> into{out.data() + row * n, n};
    if (min_count == k) {
      SlideWhole<T>(from, k, min, into);
    } else {
      SlidePartly<T>(from, k, min_count, min, into);
    }
  }
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
  m.def("sliding_valid", &Valid<T>, nb::arg("rows").noconvert(), nb::arg("out").noconvert(), nb::arg("k"),
        nb::arg("min"));
  if constexpr (std::is_floating_point_v<T>) {
    m.def("sliding_same", &Same<T>, nb::arg("rows").noconvert(), nb::arg("out").noconvert(), nb::arg("k"),
          nb::arg("min_count"), nb::arg("min"));
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
