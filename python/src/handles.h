#pragma once

#include "module.h"
#include "owned.h"

namespace cambium::python {

using NativeModel = Owned<Model>;

}  // namespace cambium::python
