#pragma once

#include <nanobind/nanobind.h>

#include <functional>

#include "cambium/cambium.h"

namespace cambium::python {

namespace nb = nanobind;

// How long a wait takes until Python's signal handlers are looked after.
constexpr int kSignalsMs = 50;

// Runs Python's signal handlers; throws what one raises, such as KeyboardInterrupt. With the GIL.
inline void CheckSignals() {
  if (PyErr_CheckSignals() != 0) throw nb::python_error();
}

void BindErrors(nb::module_& m);
void BindModel(nb::module_& m);
void BindEngine(nb::module_& m);
void BindTrain(nb::module_& m);
void BindWindows(nb::module_& m);

}  // namespace cambium::python
