#include "module.h"

namespace cambium::python {

// One class a code, each also what Python calls that kind of fault.
void BindErrors(nb::module_& m) {
  static PyObject* classes[6] = {};
  const auto add = [&](const char* name, PyObject* bases, const char* doc) {
    const std::string full = std::string("cambium.") + name;
    PyObject* const made = PyErr_NewExceptionWithDoc(full.c_str(), doc, bases, nullptr);
    if (made == nullptr) throw nb::python_error();
    m.attr(name) = nb::handle(made);
    return made;
  };
  PyObject* const error =
      add("Error", PyExc_RuntimeError, "What went wrong, in one line that names the field and the value.");
  const auto kind = [&](ErrorCode code, const char* name, PyObject* also, const char* doc) {
    const nb::object bases =
        also == nullptr ? nb::borrow(error) : nb::object(nb::make_tuple(nb::handle(error), nb::handle(also)));
    classes[static_cast<int>(code)] = add(name, bases.ptr(), doc);
  };
  classes[static_cast<int>(ErrorCode::kRuntime)] = error;
  kind(ErrorCode::kUsage, "UsageError", PyExc_ValueError, "The caller asked for something impossible.");
  kind(ErrorCode::kData, "DataError", nullptr, "A model, tokenizer, data set or adapter file is wrong.");
  kind(ErrorCode::kResource, "ResourceError", nullptr, "Memory or disk does not suffice.");
  kind(ErrorCode::kInterrupted, "InterruptedError", nullptr, "Stopped on request, with a checkpoint saved.");
  nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
    try {
      std::rethrow_exception(thrown);
    } catch (const cambium::Error& e) {
      PyErr_SetString(classes[static_cast<int>(e.code())], e.what());
    }
  });
}

}  // namespace cambium::python

NB_MODULE(_cambium, m) {
  using namespace cambium::python;
  m.doc() = "The engine; cambium is the package to import.";
  BindErrors(m);
  BindModel(m);
  BindEngine(m);
  BindTrain(m);
  BindWindows(m);
}
