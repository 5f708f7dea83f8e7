#pragma once

#include <Python.h>
#include <unistd.h>

#include <memory>
#include <utility>

#include "cambium/error.h"

namespace cambium::python {

// What lives on threads that a forked child has not: there it is refused, and left alone at the end.
template <class T>
class Owned {
 public:
  explicit Owned(std::unique_ptr<T> value) : value_(std::move(value)) {}
  Owned(Owned&&) noexcept = default;
  ~Owned() {
    if (value_ == nullptr) return;
    if (getpid() != process_) {
      static_cast<void>(value_.release());
      return;
    }
    // What ends may wait for a thread that has something to tell Python.
    PyThreadState* const state = PyGILState_Check() == 1 ? PyEval_SaveThread() : nullptr;
    value_.reset();
    if (state != nullptr) PyEval_RestoreThread(state);
  }

  T& get() const {
    if (value_ == nullptr) Fail(ErrorCode::kUsage, "it is closed");
    if (getpid() != process_) {
      Fail(ErrorCode::kUsage,
           "the process was forked, and the model's threads stayed with the parent; load the model here");
    }
    return *value_;
  }
  T* operator->() const { return &get(); }
  void Close() {
    get();
    value_.reset();
  }
  bool closed() const { return value_ == nullptr; }

 private:
  std::unique_ptr<T> value_;
  pid_t process_ = getpid();
};

}  // namespace cambium::python
